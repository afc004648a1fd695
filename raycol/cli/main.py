"""The entry point: runs a command and reports an error as one line and an exit code.

Exit codes: 0 success, 1 failure, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from typer.exceptions import TyperException

from raycol.cli.commands import app
from raycol.cli.usage import usage_error
from raycol.core.arguments import as_options
from raycol.core.escaping import echo
from raycol.errors import RaycolError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `raycol` with these arguments (default: the process's) and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        arguments = [argument for argument in arguments if argument != "--debug"]
        sys.exit(app(arguments, prog_name="raycol", standalone_mode=False))
    except TyperException as error:
        echo(f"error: {' '.join(usage_error(error).split())}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, RaycolError):
            echo(f"error: {' '.join(as_options(str(error)).split())}", err=True)
            sys.exit(error.exit_code)
        reason = (str(error).strip() or "no message").splitlines()[0]
        echo(f"internal error: {type(error).__name__}: {reason} (--debug shows the traceback)", err=True)
        sys.exit(1)
