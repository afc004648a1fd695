"""Compiled inner loops, one file per stage: numba over hand-written LLVM vectors, compiled once and cached on disk."""
