"""Errors of usage, each as one line: unknown commands and options, missing and invalid values."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from raycol.core.escaping import echo
from raycol.errors import InputError

# Similarity from which a known name is suggested: 'serch' for 'search' (0.91), but not 'teach' (0.73).
_SIMILAR = 0.75


class CommandGroup(TyperGroup):
    """A group of commands. Without one it prints its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Typer's, but print the help if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Typer's, but raise `InputError` if there is no such command."""
        command = super().get_command(ctx, cmd_name)
        if command is None and not cmd_name.startswith("-"):
            raise InputError(_line(ctx, f"no command {cmd_name!r}", _suggestion(cmd_name, self.commands)))
        return command


def usage_error(error: TyperException) -> str:
    """The message of an error that typer raises, with the command and a suggestion, or where to find help."""
    option: str | None = getattr(error, "option_name", None)
    possibilities: Iterable[str] | None = getattr(error, "possibilities", None)
    # typer's own suggestions are part of the formatted message only.
    message = error.message if possibilities else error.format_message()
    return _line(
        getattr(error, "ctx", None),
        message[:1].lower() + message[1:].rstrip("."),
        _suggestion(option, possibilities or ()) if option else "",
    )


def _line(ctx: Any, message: str, suggestion: str) -> str:
    command = ctx.command_path if ctx else "raycol"
    return f"{command}: {message}; {suggestion or f'see {command} --help'}"


def _suggestion(name: str, known: Iterable[str]) -> str:
    similar = get_close_matches(name, list(known), n=1, cutoff=_SIMILAR)
    return f"did you mean {similar[0]}?" if similar else ""
