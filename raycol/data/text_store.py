"""Texts by id, in an SQLite file: for collections larger than memory, and for workers on other machines.

`TextWriter` writes a file once; `TextStore` looks texts up in it. Memory does not grow with the number of texts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from raycol.errors import RaycolError

_ROWS_PER_INSERT = 1_000
# Below the lowest default limit on the parameters of an SQLite statement, 999.
_IDS_PER_SELECT = 900
# SQLite's page cache, in KiB: most pages of the id index of a million texts.
_CACHE_KIB = 1 << 15

_DUPLICATES = """
SELECT later.rowid, later.id, later.file, later.number, first.file, first.number
FROM (SELECT id, min(rowid) AS row FROM texts GROUP BY id HAVING count(*) > 1) AS repeated
JOIN texts AS first ON first.rowid = repeated.row
JOIN texts AS later ON later.id = repeated.id AND later.rowid > repeated.row
ORDER BY later.rowid
"""


@dataclass(frozen=True, slots=True)
class Text:
    """A title and a text."""

    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text, as the encoder reads them."""
        return f"{self.title} {self.text}".strip()


class Duplicate(NamedTuple):
    """A repeated id: the file and the number of the record, and of the first record with the id."""

    id: str
    file: int
    number: int
    first_file: int
    first_number: int


class TextWriter:
    """Writes texts to a new SQLite file.

    Args:
        name: how messages name the source of the texts; kept in the file.
        path: of the file. By default a private one in the temporary folder, deleted when the process ends.

    Raises:
        RaycolError: the file cannot be written; so do the methods.
    """

    def __init__(self, name: str, path: Path | None = None) -> None:
        self._target = path or "the temporary folder (TMPDIR)"
        self._rows: list[tuple[str, str, str, int, int]] = []
        with self._writing():
            self._connection = sqlite3.connect(path or "")
            for statement in (
                "PRAGMA journal_mode = OFF",  # a file that is not finished is not used
                "PRAGMA synchronous = OFF",
                f"PRAGMA cache_size = -{_CACHE_KIB}",
                "CREATE TABLE source (name TEXT)",
                "CREATE TABLE texts (id TEXT, title TEXT, text TEXT, file INTEGER, number INTEGER)",
            ):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO source VALUES (?)", [name])

    def add(self, id_: str, text: Text, file: int = 0, number: int = 0) -> None:
        """Add a text, with the index of its file and its line or row, for duplicates."""
        self._rows.append((id_, text.title, text.text, file, number))
        if len(self._rows) == _ROWS_PER_INSERT:
            self._insert()

    def finish(self) -> tuple[TextStore, list[Duplicate]]:
        """Return the texts, the first of each id, and the repeated ids in the order of their records."""
        self._insert()
        with self._writing():
            # An index built at the end is sorted once; one that grows with the texts rewrites its pages.
            self._connection.execute("CREATE INDEX by_id ON texts (id)")
            rows = self._connection.execute(_DUPLICATES).fetchall()
            self._connection.executemany("DELETE FROM texts WHERE rowid = ?", [row[:1] for row in rows])
            self._connection.commit()
        return TextStore(self._connection), [Duplicate(*row[1:]) for row in rows]

    def _insert(self) -> None:
        with self._writing():
            self._connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", self._rows)
        self._rows.clear()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RaycolError(f"{self._target}: cannot be written ({error})") from error


class TextStore:
    """Looks texts up by id.

    Args:
        connection: to a file of `TextWriter`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        (self.name,) = connection.execute("SELECT name FROM source").fetchone()

    @classmethod
    def open(cls, path: Path) -> TextStore:
        """Open a finished file to read."""
        # Immutable: SQLite takes no locks, which shared file systems handle badly.
        return cls(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True))

    def find(self, ids: Sequence[str]) -> dict[str, Text]:
        """Return the texts of ids; unknown ids are left out."""
        texts: dict[str, Text] = {}
        for start in range(0, len(ids), _IDS_PER_SELECT):
            batch = ids[start : start + _IDS_PER_SELECT]
            parameters = ",".join("?" * len(batch))
            rows = self._connection.execute(f"SELECT id, title, text FROM texts WHERE id IN ({parameters})", batch)  # noqa: S608
            texts |= {id_: Text(title, text) for id_, title, text in rows}
        return texts
