"""Where a record starts, so that reading can begin there again; and what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record starts.

    Args:
        offset: bytes into a file of lines (decompressed); records before it in any other.
        number: its line, or its row, from 1.
    """

    offset: int = 0
    number: int = 1


START = Position()


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used: where it stands and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
