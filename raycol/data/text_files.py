"""Files with the texts of queries or documents, which training examples refer to by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raycol.data.cells import read_id
from raycol.data.columns import Role, first_match, quote_names
from raycol.data.corpus import OnError, SkippedRecords, all_skipped, encode_text, is_missing
from raycol.data.readers.delimited import default_names
from raycol.data.readers.reader import BadRecord, CorpusFile, as_object
from raycol.data.text_store import Text, TextStore, TextWriter
from raycol.errors import InputError

# Id, text, index of the file, line or row of the record.
_Row = tuple[str, str, int, int]

_IDS = {
    "query": ("query_id", "query-id", "qid", "_id", "id"),
    "document": ("pid", "passage_id", "document_id", "doc_id", "docid", "corpus_id", "corpus-id", "_id", "id"),
}
_TEXTS = {
    "query": ("query", "text", "question", "content", "contents"),
    "document": ("document", "passage", "text", "content", "contents", "body", "segment"),
}
_TITLES = {"query": (), "document": ("title", "doc_title")}


def read_text_files(
    files: Sequence[CorpusFile], role: Role, on_error: OnError = "fail", problems: list[BadRecord] | None = None
) -> TextStore:
    """Read files with an id and a text per record into a private store.

    The `text` of a document with a title is both, joined by a space, as in BEIR's evaluation.

    Args:
        files: the files.
        role: whether these are queries or documents; decides the column names.
        on_error: "fail" raises at the first bad record or duplicate id, "skip" skips it.
        problems: with "skip", receives the skipped records.

    Raises:
        InputError: a file cannot be read or has no column for ids or texts; no usable record; a bad record or a
            duplicate id with `on_error="fail"`.
    """
    skipped = SkippedRecords(on_error, problems)
    name = ", ".join(dict.fromkeys(f"{file}, {file.subset}" if file.subset else str(file) for file in files))
    writer = TextWriter(name)
    n_texts = 0
    for row in _scan(files, role):
        if isinstance(row, BadRecord):
            skipped.add(row)
            continue
        id_, text, file, number = row
        writer.add(id_, Text("", text), file, number)
        n_texts += 1
    if not n_texts:
        reason = all_skipped(skipped.first)
        raise InputError(f"{name}: empty; expected at least one {role} with an id and a text{reason}")
    store, duplicates = writer.finish()
    for repeated in duplicates:
        first = files[repeated.first_file].where(repeated.first_number)
        location = files[repeated.file].where(repeated.number)
        skipped.add(BadRecord(location, f"duplicate id {repeated.id!r}, first on {first}"))
    return store


def _scan(files: Sequence[CorpusFile], role: Role) -> Iterator[_Row | BadRecord]:
    common = {*_IDS[role], *_TEXTS[role], *_TITLES[role]}
    for number, file in enumerate(files):

        def select(names: list[str], file: CorpusFile = file) -> list[str]:
            try:
                return [name for name in _names(names, role) if name]
            except ValueError as error:
                raise InputError(f"{file}: {error}") from None

        infer_names = default_names(file.format, lambda name: name.lower() in common)
        for position, record in file.rows(select, infer_names):
            try:
                id_, text = _parse(as_object(record), role)
                yield id_, text, number, position.number
            except ValueError as error:
                yield BadRecord(file.where(position.number), str(error))


def _names(names: list[str], role: Role) -> tuple[str, str, str | None]:
    """Names of the columns of the id, the text and the title."""
    id_, text = first_match(_IDS[role], names), first_match(_TEXTS[role], names)
    for match, candidates in ((id_, _IDS[role]), (text, _TEXTS[role])):
        if not match:
            raise ValueError(f"none of {quote_names(candidates)}, only {quote_names(names)}")
    return str(id_), str(text), first_match(_TITLES[role], names)


def _parse(record: dict[str, Any], role: Role) -> tuple[str, str]:
    """Id and text of a record. Raises `ValueError` if it lacks one."""
    id_name, text_name, title_name = _names(list(record), role)
    id_ = read_id(record[id_name], id_name)
    texts = []
    for name in (title_name, text_name):
        value = record[name] if name and not is_missing(record[name]) else None
        if not isinstance(value, str | None):
            raise ValueError(f"{name!r} of {id_!r} is a {type(value).__name__}; expected a string")
        encode_text(f"{name!r} of {id_!r}", value or "")
        texts.append(value or "")
    if not any(map(str.strip, texts)):
        raise ValueError(f"{role} {id_!r} has no text")
    return id_, " ".join(texts).strip() if title_name else texts[1]
