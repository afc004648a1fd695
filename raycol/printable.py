"""Text of documents, ids and files for a terminal: what would control it is shown as an escape instead."""

from __future__ import annotations

# Joiners, which letters of several scripts and emoji need.
_JOINERS = "\u200c\u200d"


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
