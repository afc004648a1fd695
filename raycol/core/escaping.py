"""Text of documents, ids and files for a terminal: what would control it is shown as an escape instead."""

from __future__ import annotations

import re

import typer

# Joiners, which letters of several scripts and emoji need.
_JOINERS = "\u200c\u200d"

# Colours and weights of letters, as Ray gives them to the lines of workers.
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, parts of which others may have written, to standard output or to standard error."""
    typer.echo(printable(text), err=err, nl=nl)


def printable_log(text: str) -> str:
    """What a program has printed: without colours, and with an end of line where it would have begun the line anew."""
    return printable(_STYLES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def printable(text: str) -> str:
    r"""A text with control characters, and those that change the direction of others, as escapes such as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(character if _shown(character) else _escape(character) for character in text)


def _shown(character: str) -> bool:
    return character.isprintable() or (character.isspace() and character not in "\r\v\f\x1c\x1d\x1e\x1f\x85") or (
        character in _JOINERS
    )  # fmt: skip


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
