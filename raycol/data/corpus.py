"""A corpus: documents with an id, an optional title, a text or its embeddings, and metadata.

It comes as JSON Lines, CSV, TSV, Parquet, .npz or a Hugging Face dataset (`files` says from where). Every record is
checked on the way in; what is wrong with one is a `Problem` that says where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raycol.data.fields import USUAL, Fields, convert
from raycol.data.files import CorpusFile, corpus_files, state_of
from raycol.data.position import START, BadRecord, Position
from raycol.data.readers.delimited import Guess, is_quoted, read_delimited, usual_names
from raycol.data.readers.hub import dataset_state, read_dataset
from raycol.data.readers.jsonl import is_array, parse_object, read_lines
from raycol.data.readers.npz import read_arrays
from raycol.data.readers.parquet import read_parquet
from raycol.errors import InputError

OnError = Literal["fail", "skip"]

MAX_ID_BYTES = 512


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable text, or what stands for it: `embeddings` as they were read, not yet checked."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    embeddings: Any = field(default=None, compare=False, repr=False)

    @property
    def content(self) -> str:
        """What is encoded: title and text, joined by a space as BEIR's own evaluation does."""
        return f"{self.title} {self.text}".strip()


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and value != value)


def read_id(value: Any, name: str) -> str:
    """An id; whole numbers are ids too. Raises `ValueError` saying, under the name, what was found."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = f"{value:d}"
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r:.100}; expected an id, a string or a whole number")
    size = len(encode_text(name.removeprefix("the "), value))
    if size > MAX_ID_BYTES:
        raise ValueError(f"{name} takes {size} bytes; expected at most {MAX_ID_BYTES}")
    return value


def check_id(record: dict[str, Any], fields: Fields | None = None) -> str:
    """The record's id. Raises `ValueError` saying what is wrong with it."""
    name = (fields or Fields()).find("id", record)
    value = record.get(name) if name else None
    if is_missing(value):
        raise ValueError(f"no {fields.id!r}" if fields and fields.id else "no '_id' (or 'id')")
    return read_id(value, "the id")


def encode_text(name: str, value: str) -> bytes:
    """A text in UTF-8. Raises `ValueError`, naming it, where it holds half of a character."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        # How the readers of tables pass on what they cannot decode.
        undecoded = 0xDC80 <= ord(value[error.start]) <= 0xDCFF
        raise ValueError(f"the {name} {'is not UTF-8' if undecoded else 'holds half of a surrogate pair'}") from None


def parse_passage(record: dict[str, Any], fields: Fields, number: int = 0) -> Passage:
    """Make a passage of one record. Raises `ValueError` saying what is wrong with it."""
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
                f"{name!r} of {id_!r} is a {type(value).__name__}; expected one value: join what it holds into a "
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
    """Without the field, a document is not one of a title alone: another field may be its text."""
    usual = ", ".join(map(repr, USUAL["text"]))
    return repr(fields.text) if fields.text else f"text (none of {usual}); name its field with --text-column"


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
    """Yield each record of a file, in order, as a passage or as the problem with it.

    Ids are not compared with each other here: see `read_corpus` and `raycol.indexing.plan`.

    Args:
        file: one of the corpus.
        fields: which fields are what.
        start: where to begin.
        number: records of the corpus before that.
        tokens: read embeddings too; without, passages of an encoded corpus have none.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    for position, record in _records(file, fields, start, tokens):
        try:
            if isinstance(record, bytes):
                record = parse_object(record)
            elif isinstance(record, str):
                raise ValueError(record)
            yield position, parse_passage(record, fields, number)
        except ValueError as error:
            yield position, BadRecord(file.where(position.number), str(error))
        number += 1


def _records(
    file: CorpusFile, fields: Fields, start: Position, tokens: bool
) -> Iterator[tuple[Position, dict[str, Any] | bytes | str]]:
    guess = usual_names("csv" if file.format == "csv" else "tsv", fields.knows)
    return read_records(file, guess, lambda names: fields.choose(file, names, tokens=tokens), start)


def read_records(
    file: CorpusFile, guess: Guess, choose: Callable[[list[str]], list[str]], start: Position = START
) -> Iterator[tuple[Position, dict[str, Any] | bytes | str]]:
    """Yield each record of a file: a row of a table, a line of JSON, or what is wrong with a row of text.

    Args:
        file: what to read.
        guess: names the columns of CSV or TSV without a header.
        choose: picks from the names of a table's columns.
        start: where to begin.

    Raises:
        InputError: the file cannot be read, or what `choose` raises.
    """
    match file.format:
        case "jsonl":
            yield from read_lines(file.uri, start)
        case "csv" | "tsv":
            yield from read_delimited(file.uri, file.format, guess, choose, start)
        case "parquet":
            yield from read_parquet(file.uri, choose, start)
        case "npz":
            yield from read_arrays(file.uri, choose, start)
        case "dataset":
            yield from read_dataset(file, choose, start)


def read_corpus(
    corpus: str | Path,
    on_error: OnError = "fail",
    problems: list[BadRecord] | None = None,
    fields: Fields | None = None,
) -> Iterator[Passage]:
    """Yield the passages of a corpus, ids checked to be distinct; all ids are kept in memory.

    Args:
        corpus: as in `corpus_files`.
        on_error: "fail" raises at the first unusable record, "skip" leaves it out.
        problems: with "skip", receives what was left out.
        fields: which fields are what; guessed by default.

    Raises:
        InputError: at the first problem (a bad record or a repeated id) where `on_error` is "fail"; at the
            end where nothing usable was found.
    """
    seen: dict[str, tuple[CorpusFile, int]] = {}
    number = 0
    first: BadRecord | None = None
    for file in corpus_files(str(corpus)):
        for position, item in scan_corpus(file, fields or Fields(), number=number):
            number += 1
            if isinstance(item, Passage):
                if item.id not in seen:
                    seen[item.id] = (file, position.number)
                    yield item
                    continue
                other, place = seen[item.id]
                elsewhere = "" if other == file else f" of {other}"
                item = BadRecord(
                    file.where(position.number), f"the id {item.id!r} stands on {file.unit} {place}{elsewhere} already"
                )
            refuse(item, on_error)
            first = first or item
            if problems is not None:
                problems.append(item)
    if not seen:
        raise nothing_usable(corpus, first)


def is_sequential(file: CorpusFile) -> bool:
    """Whether records of a file of lines are found only by reading all before them: a line may be a part of one."""
    if file.format == "jsonl":
        return is_array(file.uri)
    return file.format in ("csv", "tsv") and is_quoted(file.uri, file.format)  # type: ignore[arg-type]


def has_field(file: CorpusFile, name: str) -> bool:
    """Whether any record has a field; tables were refused without the column."""
    if file.format != "jsonl":
        return True
    for _, line in read_lines(file.uri):
        try:
            if name in parse_object(line):
                return True
        except ValueError:
            continue
    return False


def nothing_usable(corpus: object, first: BadRecord | None) -> InputError:
    """What to say of a corpus without a document; `first` is the first record that was left out, if any was."""
    why = f"; every record was left out, the first was {first}" if first else ""
    return InputError(f"{corpus}: an empty corpus; expected at least one document{why}")


def identity(file: CorpusFile) -> str:
    """What tells whether a file of a corpus is another one now, without reading it.

    Raises:
        InputError: it is not there.
    """
    if file.format == "dataset":
        return f"{file.subset} {file.split} {dataset_state(file)}"
    return state_of(file.uri)


def refuse(problem: BadRecord, on_error: OnError) -> None:
    """Raise `InputError` for an unusable record, unless such are to be skipped."""
    if on_error == "fail":
        raise InputError(f"{problem}; correct it, or leave such records out with --on-error skip")
