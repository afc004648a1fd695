"""The command line: arguments in, lines out. The packages that the commands call do the work."""

from raycol.cli.main import main

__all__ = ["main"]
