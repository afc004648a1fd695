"""What an index takes as it grows, measured and calculated; `benchmarks/scaling.py` is its command."""
