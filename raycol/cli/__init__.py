"""`raycol ...`: argument parsing, and what is printed. The work is in the packages that the commands name."""

from raycol.cli.main import main

__all__ = ["main"]
