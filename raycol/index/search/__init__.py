"""One query from its probes to its hits."""
