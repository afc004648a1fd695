"""The protocol of readers, one for each file format, and the files, positions and records that they deal in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Protocol

from raycol.data.files import compression_of, file_state, lines_of, open_lines, size_of


@dataclass(frozen=True, slots=True)
class Position:
    """Start of a record, from which reading can resume.

    Args:
        offset: in a file of lines, bytes of (decompressed) content before the record; in a table, rows before it.
        number: line or row of the record, from 1.
    """

    offset: int = 0
    number: int = 1


START = Position()

# Returns the columns to read, given the names of all. It may raise `InputError`.
Select = Callable[[list[str]], list[str]]

# From the first rows of a file, returns column names if the first row is data, or None if it is a header. Raises
# `ValueError` if it can be neither.
InferNames = Callable[[list[list[str]]], list[str] | None]

# A record with its position: a dict, any JSON value if the format has no columns, or why the record is unusable.
Rows = Iterator[tuple[Position, Any]]


def has_header(rows: list[list[str]]) -> None:
    """`InferNames` for a file whose first row names the columns."""


class Reader(Protocol):
    """Reads the files of a format: tables of typed rows, or lines of text, which may be compressed.

    A new format is a module with a reader, and a line in `raycol/data/readers/__init__.py`.
    """

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of file names, in lower case; messages name the first."""

    @property
    def is_table(self) -> bool:
        """Whether files have rows of typed columns, numbered from 0, rather than lines of text."""

    @property
    def has_columns(self) -> bool:
        """Whether all records of a file have the columns that `select` chose; a line of JSON has any."""

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """Yield each record from `start`. An empty file has none.

        Args:
            file: the file.
            select: chooses the columns to read, of files with columns.
            infer_names: names the columns of text without a header.
            start: of the first record to read.

        Raises:
            InputError: the file is missing, cannot be read or is damaged.
        """

    def count(self, file: CorpusFile) -> int:
        """Number of rows of a table; size of a file of lines in bytes, as stored."""

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """Positions near the offsets where reading can start cheaply; `[START]` if only the file's start is one."""

    def position(self, file: CorpusFile, offset: int) -> Position:
        """Position of a row of a table; of the first line that starts at or after a byte, which is numbered 1."""
        return Position(offset, offset + 1) if self.is_table else START

    def divides(self, file: CorpusFile) -> bool:
        """Whether reading can start at any row, or line, without reading what is before it."""
        return False

    def state(self, file: CorpusFile) -> str:
        """State of a file; comparing it detects a change without reading the file."""
        return file_state(file.uri)


class LinesReader(Reader, Protocol):
    """A reader of lines of text."""

    is_table: bool = False

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        return size_of(file.uri)

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`. The line numbers of the positions are unknown, and 1."""
        if not self.divides(file):
            return [START]
        return [_next_line(file.uri, offset) for offset in offsets]

    def divides(self, file: CorpusFile) -> bool:
        """See `Reader`."""
        return not compression_of(file.uri) and not self.spans_lines(file)

    def position(self, file: CorpusFile, offset: int) -> Position:
        """See `Reader`."""
        if not offset:
            return START
        with open_lines(file.uri, offset - 1) as lines:
            # What remains of the line before: nothing but its end, if a line starts at the byte.
            return Position(offset - 1 + next((n_bytes for _, n_bytes in lines_of(lines)), 1))

    def spans_lines(self, file: CorpusFile) -> bool:
        """Whether records may span lines, so that their boundaries are known only from the start of the file."""


def _next_line(uri: str, offset: int) -> Position:
    """Start of the first whole line after an offset that is not blank; `START` if there is none."""
    with open_lines(uri, offset) as file:
        is_whole = False
        for line, n_bytes in lines_of(file):
            if not line.isspace():
                if is_whole:
                    return Position(offset)
                is_whole = True
            offset += n_bytes
    return START


# The reader of each format, by name.
READERS: dict[str, Reader] = {}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file, by absolute path or URI, and its format, a key of `READERS`.

    A Hugging Face dataset is one `CorpusFile`: its `uri` is `hf:NAME` or the folder of a saved dataset. Only datasets
    have a `subset` and a `split`.
    """

    uri: str
    format: str
    subset: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return self.uri

    @property
    def reader(self) -> Reader:
        """Reader of the file's format."""
        return READERS[self.format]

    def rows(self, select: Select = list, infer_names: InferNames = has_header, start: Position = START) -> Rows:
        """Yield each record from `start`; see `Reader.rows`. By default, all columns, named by the first line."""
        return self.reader.rows(self, select, infer_names, start)

    @property
    def is_table(self) -> bool:
        """Whether the file has rows of typed columns rather than lines of text."""
        return self.reader.is_table

    @property
    def unit(self) -> str:
        """Name of a record in messages: row, line, or record in .json files, whose arrays span lines freely."""
        return "row" if self.is_table else _unit_of_lines(self.uri)

    def where(self, number: int) -> str:
        """Location of a record, for messages: the file and its row or line."""
        return f"{self}, {self.unit} {number}"


@lru_cache
def _unit_of_lines(uri: str) -> str:
    return "record" if ".json" in PurePosixPath(uri.lower()).suffixes[-2:] else "line"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used: `where` is its file and line or row, `what` the reason."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def as_object(record: Any) -> dict[str, Any]:
    """Return a record of `Reader.rows` that is an object. Raises `ValueError` if it is not, or unusable."""
    if isinstance(record, ValueError):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but a {type(record).__name__}")
    return record
