"""Read a corpus: documents with an id, an optional title, a text or embeddings, and metadata.

Formats are JSON Lines, CSV, TSV, Parquet, .npz and Hugging Face datasets; `raycol.data.locations` lists the locations.
Every record is validated; an unusable one becomes a `BadRecord` with its location and the reason.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raycol.core.validation import MAX_ID_BYTES
from raycol.data.fields import COMMON_NAMES, Fields, convert
from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, lines_of, open_lines
from raycol.data.locations import corpus_files
from raycol.data.readers.delimited import default_names
from raycol.data.readers.reader import START, BadRecord, CorpusFile, Position, as_object
from raycol.errors import InputError

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrievable text, or its precomputed `embeddings`, which are not validated yet."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    embeddings: Any = field(default=None, compare=False, repr=False)

    @property
    def content(self) -> str:
        """The text to encode: title and text, joined by a space as in BEIR's evaluation."""
        return f"{self.title} {self.text}".strip()


def is_missing(value: Any) -> bool:
    """Whether a value is missing: null, or the NaN that pandas writes for null."""
    return value is None or (isinstance(value, float) and value != value)


def read_id(value: Any, name: str) -> str:
    """An id as a string; integers are converted. Raises `ValueError` with `name` and the value."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = f"{value:d}"
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r:.100}; expected an id: a non-empty string or an integer")
    size = len(encode_text(name.removeprefix("the "), value))
    if size > MAX_ID_BYTES:
        raise ValueError(f"{name} takes {size} bytes; expected at most {MAX_ID_BYTES}")
    return value


def check_id(record: dict[str, Any], fields: Fields | None = None) -> str:
    """Id of a record. Raises `ValueError` if it is missing or invalid."""
    name = (fields or Fields()).find("id", record)
    value = record.get(name) if name else None
    if is_missing(value):
        raise ValueError(f"no {fields.id!r}" if fields and fields.id else "no '_id' (or 'id')")
    return read_id(value, "the id")


def encode_text(name: str, value: str) -> bytes:
    """A text in UTF-8. Raises `ValueError` with its name if it has a lone surrogate."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        # The readers decode with `surrogateescape`, which maps invalid bytes to these code points.
        undecoded = 0xDC80 <= ord(value[error.start]) <= 0xDCFF
        raise ValueError(f"the {name} {'is not UTF-8' if undecoded else 'holds half of a surrogate pair'}") from None


def parse_passage(record: dict[str, Any], fields: Fields, number: int = 0) -> Passage:
    """Passage of a record. Raises `ValueError` if the record is unusable.

    Args:
        record: the record.
        fields: names of its fields.
        number: running number of the record in the corpus, for generated ids.
    """
    id_ = f"{fields.make_ids}{number}" if fields.make_ids is not None else check_id(record, fields)
    if not fields.encoded and fields.find("text", record) is None:
        raise ValueError(f"document {id_!r} has no {_missing_text(fields)}")
    title = _text_of(record, fields, "title", id_)
    text = _text_of(record, fields, "text", id_)
    metadata = {}
    for name, kind in fields.metadata.items():
        value = record.get(name)
        if kind in ("", "string") and isinstance(value, list | dict | np.ndarray):
            raise ValueError(
                f"{name!r} of {id_!r} is a {type(value).__name__}; expected a single value: join the values into a "
                "text, which filters search with LIKE, or leave this metadata out"
            )
        try:
            value = convert(value, kind) if kind and not is_missing(value) else value
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{name!r} of {id_!r} is {value!r:.100}; expected a {kind}") from None
        if isinstance(value, str):
            encode_text(f"{name!r} of {id_!r}", value)
        metadata[name] = None if is_missing(value) else value
    if not fields.encoded and not text.strip() and not title.strip():
        raise ValueError(f"document {id_!r} has no text")
    embeddings = record.get(fields.find("embeddings", record) or "") if fields.encoded else None
    return Passage(id_, title, text, metadata, embeddings)


def _missing_text(fields: Fields) -> str:
    """Description of a missing text field. A title alone is not enough: the text may be in a field of another name."""
    names = ", ".join(map(repr, COMMON_NAMES["text"]))
    return repr(fields.text) if fields.text else f"text (none of {names}); name its field with `text_column=`"


def _text_of(record: dict[str, Any], fields: Fields, role: str, id_: str) -> str:
    name = fields.find(role, record)
    value = record.get(name) if name else None
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the {role} of {id_!r} is a {type(value).__name__}; expected a string")
    encode_text(f"{role} of {id_!r}", value)
    return value


def scan_corpus(
    file: CorpusFile, fields: Fields, start: Position = START, number: int = 0, *, tokens: bool = False
) -> Iterator[tuple[Position, Passage | BadRecord]]:
    """Yield each record of a file in order, as a passage or as a `BadRecord`, with its position.

    Duplicate ids are not detected here: see `read_corpus` and `raycol.indexing.plan`.

    Args:
        file: a file of the corpus.
        fields: names of the fields.
        start: position of the first record to read.
        number: records of the corpus before `start`.
        tokens: read embeddings too; without it, passages of an encoded corpus have none.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    infer_names = default_names(file.format, fields.is_known)
    rows = file.rows(partial(fields.select_columns, file, tokens=tokens), infer_names, start)
    for position, record in rows:
        try:
            yield position, parse_passage(as_object(record), fields, number)
        except ValueError as error:
            yield position, BadRecord(file.where(position.number), str(error))
        number += 1


def read_corpus(
    corpus: str | Path,
    on_error: OnError = "fail",
    problems: list[BadRecord] | None = None,
    fields: Fields | None = None,
) -> Iterator[Passage]:
    """Yield the passages of a corpus, checking that ids are unique; all ids are held in memory.

    Args:
        corpus: as in `corpus_files`.
        on_error: "fail" raises at the first bad record, "skip" skips it.
        problems: with "skip", receives the skipped records.
        fields: names of the fields; inferred by default.

    Raises:
        InputError: a bad record or a duplicate id with `on_error="fail"`; no usable record in the corpus.
    """
    seen: dict[str, tuple[CorpusFile, int]] = {}
    number = 0
    skipped = SkippedRecords(on_error, problems)
    for file in corpus_files(str(corpus)):
        for position, item in scan_corpus(file, fields or Fields(), number=number):
            number += 1
            if isinstance(item, Passage):
                if item.id not in seen:
                    seen[item.id] = (file, position.number)
                    yield item
                    continue
                first_file, first_number = seen[item.id]
                location = f"{file.unit} {first_number}" if first_file == file else first_file.where(first_number)
                item = BadRecord(file.where(position.number), f"duplicate id {item.id!r}, first on {location}")
            skipped.add(item)
    if not seen:
        raise empty_corpus_error(corpus, skipped.first)


def read_id_lines(path: str | Path) -> Iterator[str]:
    """Yield the id on each line, spaces included. Empty lines are skipped.

    Raises:
        InputError: the file cannot be read or is not a plain file, or a line is not a valid id.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a device may never end
        raise InputError(f"{path}: not a plain file; expected a file of ids, one a line")
    with open_lines(str(path)) as file:
        for number, (line, _) in enumerate(lines_of(file), start=1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            text = text.removesuffix(b"\n").removesuffix(b"\r")
            try:
                if len(line) > MAX_RECORD_BYTES:
                    raise ValueError(TOO_LARGE)
                if text:
                    yield read_id(text.decode("utf-8", "surrogateescape"), "the id")
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None


def has_field(file: CorpusFile, name: str) -> bool:
    """Whether any record of a file has a field. Always true if the file has columns: reading fails without it."""
    if file.reader.has_columns:
        return True
    return any(isinstance(record, dict) and name in record for _, record in file.rows())


def empty_corpus_error(corpus: object, first: BadRecord | None) -> InputError:
    """The error for a corpus without documents; `first` is the first skipped record, if any."""
    return InputError(f"{corpus}: an empty corpus; expected at least one document{all_skipped(first)}")


def all_skipped(first: BadRecord | None) -> str:
    """The end of a message about a source without usable records; `first` is the first skipped record, if any."""
    return f"; every record was skipped, the first was {first}" if first else ""


class SkippedRecords:
    """Collects the unusable records of a source, or raises `InputError` at the first.

    Args:
        on_error: "fail" raises, "skip" collects.
        problems: receives the records.
    """

    def __init__(self, on_error: OnError, problems: list[BadRecord] | None = None) -> None:
        self.first: BadRecord | None = None
        self._on_error = on_error
        self._problems = problems

    def add(self, problem: BadRecord) -> None:
        """Refuse or collect a record."""
        refuse(problem, self._on_error)
        self.first = self.first or problem
        if self._problems is not None:
            self._problems.append(problem)


def source_state(file: CorpusFile) -> str:
    """State of a file of a corpus; comparing it detects a change without reading the file.

    Raises:
        InputError: no such file.
    """
    return file.reader.state(file)


def refuse(problem: BadRecord, on_error: OnError) -> None:
    """Raise `InputError` for a bad record if `on_error` is "fail"."""
    if on_error == "fail":
        raise InputError(f"{problem}; correct it, or skip bad records with `on_error='skip'`")
