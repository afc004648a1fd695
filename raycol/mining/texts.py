"""The texts of an index's documents: from its metadata, or from the corpus it was built of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from raycol.data import Passage
from raycol.errors import InputError
from raycol.index import Index

_ROWS = 10_000
# SQLite takes so many parameters in any version.
_ASKED_AT_ONCE = 900


@dataclass(frozen=True, slots=True)
class Text:
    """A document's title and text."""

    title: str
    text: str

    @property
    def content(self) -> str:
        """What was encoded: title and text."""
        return f"{self.title} {self.text}".strip()


class Texts(Protocol):
    """Looks texts up."""

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """The texts of documents by id. Raises `InputError` where one has none."""


class IndexTexts:
    """Texts that the index stores."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """A document without a text has an empty one."""
        rows = zip(ids, self._index.metadata(ids), strict=True)
        return {id_: Text(row.get("title") or "", row.get("text") or "") for id_, row in rows}


class TextWriter:
    """Writes a corpus's texts into a file that every worker can look them up in: an SQLite table by id.

    Args:
        path: a new file.
        corpus: how messages name the corpus.
    """

    def __init__(self, path: Path, corpus: object) -> None:
        self._digest = xxhash.xxh3_128()
        self._rows: list[tuple[str, str, str]] = []
        self._file = sqlite3.connect(path)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",  # every run writes it anew
            "CREATE TABLE corpus (name TEXT)",
            "CREATE TABLE texts (id TEXT PRIMARY KEY, title TEXT, text TEXT) WITHOUT ROWID",
        ):
            self._file.execute(statement)
        self._file.execute("INSERT INTO corpus VALUES (?)", [str(corpus)])

    def add(self, passage: Passage) -> None:
        """One more; ids are distinct."""
        row = (passage.id, passage.title, passage.text)
        self._digest.update(repr(row).encode())
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._write()

    def finish(self) -> str:
        """Close the file; return a digest of what is in it."""
        self._write()
        self._file.commit()
        self._file.close()
        return self._digest.hexdigest()

    def _write(self) -> None:
        self._file.executemany("INSERT INTO texts VALUES (?, ?, ?)", self._rows)
        self._rows.clear()


class CorpusTexts:
    """Texts that a `TextWriter` has written."""

    def __init__(self, path: Path) -> None:
        # Nobody writes: so nothing is locked, which shared file systems are bad at.
        self._file = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Raises `InputError` where the corpus lacks a document of the index."""
        found: dict[str, Text] = {}
        for start in range(0, len(ids), _ASKED_AT_ONCE):
            asked = ids[start : start + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(asked))
            rows = self._file.execute(f"SELECT id, title, text FROM texts WHERE id IN ({marks})", asked)  # noqa: S608
            found |= {id_: Text(title, text) for id_, title, text in rows}
        if missing := [id_ for id_ in ids if id_ not in found]:
            (name,) = self._file.execute("SELECT name FROM corpus").fetchone()
            raise InputError(
                f"{name}: no document {missing[0]!r}, which the index has; name the corpus that it was built of with "
                "--corpus"
            )
        return found
