"""The compiled inner loops of search, one file a stage. Plain numba; compiled once, cached on disk."""
