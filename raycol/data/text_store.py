"""Texts of queries or documents by id, for collections larger than memory.

Ids and texts are written once, as Arrow, to an anonymous temporary file (in TMPDIR), which is memory-mapped. The index
held in memory takes 16 bytes per text: the hash of the id and the row.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from raycol.data.cells import read_id
from raycol.data.columns import first_match, quote_names
from raycol.data.corpus import OnError, encode_text, is_missing, read_records, refuse
from raycol.data.files import CorpusFile
from raycol.data.position import BadRecord
from raycol.data.readers.arrow import MappedRows, RowWriter
from raycol.data.readers.delimited import default_names
from raycol.data.readers.jsonl import parse_object
from raycol.errors import InputError, writing

# Id, text, index of the file, line or row of the record.
_Row = tuple[str, str, int, int]

Role = Literal["query", "document"]

_IDS = {
    "query": ("query_id", "query-id", "qid", "_id", "id"),
    "document": ("pid", "passage_id", "document_id", "doc_id", "docid", "corpus_id", "corpus-id", "_id", "id"),
}
_TEXTS = {
    "query": ("query", "text", "question", "content", "contents"),
    "document": ("document", "passage", "text", "content", "contents", "body", "segment"),
}
_TITLES = {"query": (), "document": ("title", "doc_title")}

_SCHEMA = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("file", pa.int32()), ("number", pa.int64())]
)


class TextStore:
    """Texts by id. A document's title and text are joined by a space, as in BEIR's evaluation.

    Args:
        files: files with an id and a text per record.
        role: whether these are queries or documents; decides the column names.
        on_error: "fail" raises at the first bad record or duplicate id, "skip" skips it.
        problems: with "skip", receives the skipped records.

    Raises:
        InputError: a file cannot be read or has no column for ids or texts; no usable record; a bad record or a
            duplicate id with `on_error="fail"`.
    """

    def __init__(
        self,
        files: Sequence[CorpusFile],
        role: Role,
        on_error: OnError = "fail",
        problems: list[BadRecord] | None = None,
    ) -> None:
        self.role = role
        self.name = ", ".join(dict.fromkeys(f"{file}, {file.subset}" if file.subset else str(file) for file in files))
        self._files = files
        self._on_error = on_error
        self._problems = problems
        hashes = array("Q")
        # `writing` blames TMPDIR only for writes: read errors are already `InputError`s.
        with writing(tempfile.gettempdir()), tempfile.TemporaryFile(buffering=1 << 20) as file:
            self._write(file, hashes)
            mapped = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._table = MappedRows(pa.BufferReader(mapped))
        unsorted = np.frombuffer(hashes, np.uint64)
        self._rows = np.argsort(unsorted, kind="stable")
        self._hashes = unsorted[self._rows]
        self._check_distinct()

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, id_: str) -> str | None:
        """The text of an id; None for an unknown id."""
        row = self._find_row(id_)
        return None if row is None else str(self._table.cell(row, "text"))

    def _find_row(self, id_: str) -> int | None:
        hash_ = np.uint64(xxhash.xxh3_64_intdigest(id_.encode()))
        index = int(np.searchsorted(self._hashes, hash_))
        while index < len(self._hashes) and self._hashes[index] == hash_:
            row = int(self._rows[index])
            if self._table.cell(row, "id") == id_:
                return row
            index += 1
        return None

    def _where(self, row: int) -> str:
        return self._files[int(self._table.cell(row, "file"))].where(int(self._table.cell(row, "number")))

    def _check_distinct(self) -> None:
        """Refuse every record with an id of an earlier record."""
        for index in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]).tolist():
            row = int(self._rows[index + 1])
            id_ = self._table.cell(row, "id")
            first = self._find_row(id_)
            if first is not None and first != row:
                self._refuse(BadRecord(self._where(row), f"duplicate id {id_!r}, first on {self._where(first)}"))

    def _refuse(self, problem: BadRecord) -> None:
        refuse(problem, self._on_error)
        if self._problems is not None:
            self._problems.append(problem)

    def _write(self, file: IO[bytes], hashes: array[int]) -> None:
        first: BadRecord | None = None
        with RowWriter(file, _SCHEMA) as writer:
            for row in self._scan():
                if isinstance(row, BadRecord):
                    self._refuse(row)
                    first = first or row
                    continue
                hashes.append(xxhash.xxh3_64_intdigest(row[0].encode()))
                writer.add(row)
        file.flush()
        if not hashes:
            reason = f"; every record was skipped, the first was {first}" if first else ""
            raise InputError(f"{self.name}: empty; expected at least one {self.role} with an id and a text{reason}")

    def _scan(self) -> Iterator[_Row | BadRecord]:
        common = {*_IDS[self.role], *_TEXTS[self.role], *_TITLES[self.role]}
        for number, file in enumerate(self._files):

            def select(names: list[str], file: CorpusFile = file) -> list[str]:
                try:
                    return [name for name in self._names(names) if name]
                except ValueError as error:
                    raise InputError(f"{file}: {error}") from None

            infer_names = default_names("csv" if file.format == "csv" else "tsv", lambda name: name.lower() in common)
            for position, record in read_records(file, infer_names, select):
                try:
                    if isinstance(record, str):
                        raise ValueError(record)
                    id_, text = self._parse(parse_object(record) if isinstance(record, bytes) else record)
                    yield id_, text, number, position.number
                except ValueError as error:
                    yield BadRecord(file.where(position.number), str(error))

    def _names(self, names: list[str]) -> tuple[str, str, str | None]:
        """Names of the columns of the id, the text and the title."""
        id_, text = first_match(_IDS[self.role], names), first_match(_TEXTS[self.role], names)
        for match, candidates in ((id_, _IDS[self.role]), (text, _TEXTS[self.role])):
            if not match:
                raise ValueError(f"none of {quote_names(candidates)}, only {quote_names(names)}")
        return str(id_), str(text), first_match(_TITLES[self.role], names)

    def _parse(self, record: dict[str, Any]) -> tuple[str, str]:
        id_name, text_name, title_name = self._names(list(record))
        id_ = read_id(record[id_name], id_name)
        texts = []
        for name in (title_name, text_name):
            value = record[name] if name and not is_missing(record[name]) else None
            if not isinstance(value, str | None):
                raise ValueError(f"{name!r} of {id_!r} is a {type(value).__name__}; expected a string")
            encode_text(f"{name!r} of {id_!r}", value or "")
            texts.append(value or "")
        if not any(map(str.strip, texts)):
            raise ValueError(f"{self.role} {id_!r} has no text")
        return id_, " ".join(texts).strip() if title_name else texts[1]
