"""Look up the texts of an index's documents: in its metadata, or in the corpus it was built from."""

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

_ROWS_PER_INSERT = 10_000
# Below the lowest default limit on the parameters of an SQLite statement, 999.
_IDS_PER_SELECT = 900


@dataclass(frozen=True, slots=True)
class Text:
    """A document's title and text."""

    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text, as the encoder reads them."""
        return f"{self.title} {self.text}".strip()


class Texts(Protocol):
    """Looks up texts by document id."""

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id. Raises `InputError` for a missing document."""


class IndexTexts:
    """Texts from the metadata of an index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id; a document without text gets an empty one."""
        rows = zip(ids, self._index.metadata(ids), strict=True)
        return {id_: Text(row.get("title") or "", row.get("text") or "") for id_, row in rows}


class TextWriter:
    """Writes the texts of a corpus to an SQLite table by id, for `CorpusTexts`.

    Args:
        path: of the new file.
        corpus: how messages name the corpus.
    """

    def __init__(self, path: Path, corpus: object) -> None:
        self._digest = xxhash.xxh3_128()
        self._rows: list[tuple[str, str, str]] = []
        self._connection = sqlite3.connect(path)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",  # every run rewrites the file
            "CREATE TABLE corpus (name TEXT)",
            "CREATE TABLE texts (id TEXT PRIMARY KEY, title TEXT, text TEXT) WITHOUT ROWID",
        ):
            self._connection.execute(statement)
        self._connection.execute("INSERT INTO corpus VALUES (?)", [str(corpus)])

    def add(self, passage: Passage) -> None:
        """Add a passage; ids are distinct."""
        row = (passage.id, passage.title, passage.text)
        self._digest.update(repr(row).encode())
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_INSERT:
            self._write()

    def finish(self) -> str:
        """Close the file; return a hash of its rows."""
        self._write()
        self._connection.commit()
        self._connection.close()
        return self._digest.hexdigest()

    def _write(self) -> None:
        self._connection.executemany("INSERT INTO texts VALUES (?, ?, ?)", self._rows)
        self._rows.clear()


class CorpusTexts:
    """Texts from a file of `TextWriter`."""

    def __init__(self, path: Path) -> None:
        # Immutable: SQLite takes no locks, which shared file systems handle badly.
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)

    def __call__(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of documents by id. Raises `InputError` if the corpus lacks a document of the index."""
        texts: dict[str, Text] = {}
        for start in range(0, len(ids), _IDS_PER_SELECT):
            batch = ids[start : start + _IDS_PER_SELECT]
            parameters = ",".join("?" * len(batch))
            rows = self._connection.execute(f"SELECT id, title, text FROM texts WHERE id IN ({parameters})", batch)  # noqa: S608
            texts |= {id_: Text(title, text) for id_, title, text in rows}
        if missing := [id_ for id_ in ids if id_ not in texts]:
            (name,) = self._connection.execute("SELECT name FROM corpus").fetchone()
            raise InputError(
                f"{name}: has no document {missing[0]!r}, which the index has; pass the corpus that the index was "
                "built from with --corpus"
            )
        return texts
