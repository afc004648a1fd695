"""The entry point: runs a command and turns its errors into one line and an exit code.

0 is success, 2 wrong input or usage, 1 anything else that failed, 130 an interruption.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from raycol.cli.commands import app
from raycol.core.escaping import echo
from raycol.errors import RaycolError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `raycol` with these arguments (by default the process's) and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app([word for word in words if word != "--debug"], prog_name="raycol")
    except Exception as error:
        if debug:
            raise
        if isinstance(error, RaycolError):
            echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(error.exit_code)
        reason = (str(error).strip() or "no message").splitlines()[0]
        echo(f"internal error: {type(error).__name__}: {reason} (--debug shows where)", err=True)
        sys.exit(1)
