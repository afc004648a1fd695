"""Print untrusted text, such as documents, ids and file names: control characters are shown as escapes."""

from __future__ import annotations

import re

import typer

# Zero-width joiners, which several scripts and emoji need.
_JOINERS = "\u200c\u200d"

# ANSI colours and weights, which Ray adds to the log lines of workers.
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print untrusted text to standard output or standard error."""
    typer.echo(printable(text), err=err, nl=nl)


def printable_log(text: str) -> str:
    """Make a program's output printable: drop colours, and turn carriage returns into line ends."""
    return printable(_STYLES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def printable(text: str) -> str:
    r"""Replace control characters, and those that change the text direction, with escapes such as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(character if is_safe(character) else _escape(character) for character in text)


def is_safe(character: str) -> bool:
    """Whether a character can be printed: it neither controls the terminal nor changes the text direction."""
    return character.isprintable() or (character.isspace() and character not in "\r\v\f\x1c\x1d\x1e\x1f\x85") or (
        character in _JOINERS
    )  # fmt: skip


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def plain(text: str) -> str:
    """Escape a text for Markdown, where it shows as it is, on one line."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(text.split()))
