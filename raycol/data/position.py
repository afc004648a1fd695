"""Positions of records in a file, and records that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """Start of a record, from which reading can resume.

    Args:
        offset: in a file of lines, bytes of (decompressed) content before the record; in any other file, records
            before it.
        number: line or row of the record, from 1.
    """

    offset: int = 0
    number: int = 1


START = Position()


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used: `where` is its file and line or row, `what` the reason."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
