"""The compiled inner loops, one file a stage: numba, and LLVM vectors below it; compiled once, cached on disk."""
