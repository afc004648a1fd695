"""Read training examples (a query, its documents, and teacher scores) in all common layouts.

Formats are JSON Lines, CSV, TSV, Parquet and Hugging Face datasets; locations: `raycol.data.locations`. Layouts:

    layout         columns                                                 documents and their scores
    -------------  ------------------------------------------------------  -------------------------------------------
    pairs          query, positive                                         the positive
    triplets, ...  and negative, negative_1 .. negative_N or negatives     the positive, then the negatives
    with margins   and label: a margin for each negative                   scores 0, -margin_1, .. -margin_N
    with scores    and label: a score for each document                    those scores
    scored         query, documents (or document_1 .. document_N), scores  the documents, those scores
    distillation   query_id, document_ids, scores (PyLate)                 looked up by their ids
    by ids         query_id, positive_id, negative_ids, score              the same
    DPR, Tevatron  query, positive_ctxs or positive_passages, negative_..  one example per positive
    labeled list   query, answer (a list), labels of 0 and 1               one example per 1, with all 0
    BEIR           a folder with qrels/<split>.tsv                         one example per judgement above 0

Other common names are known too, see `raycol.data.columns`: anchor or question for the query; pos, answer, response or
passage for the positive; neg for negatives; docs for documents; score, labels or label for scores. A list may be
serialised as a string, as CSV requires: in JSON, or as printed by Python (older PyLate datasets). If no name is known,
columns get their roles by position, as in sentence-transformers: query, positive, negatives. All of these must be
texts; columns named id or ..._id are ignored. A record with a list of positives becomes one example per positive.

Without column names (CSV and TSV without a header, or lines of JSON arrays such as ColBERT's triples), roles also go
by position. Integers are ids, and so are values that exist as ids in the queries or documents. Roles assigned by
position are printed.

Texts of ids are looked up in `queries` and `documents` (or `corpus`) next to the examples (files or folders of that
name, or subsets of the hub dataset), or in the files that `ExampleSource` names; see `raycol.data.text_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycol.core.progress import print_once
from raycol.core.uris import without_options
from raycol.data.beir import qrels_path
from raycol.data.columns import Columns, Role, find_columns, map_columns
from raycol.data.corpus import OnError, SkippedRecords, all_skipped
from raycol.data.headerless import is_example_header, may_be_header, name_by_position, refuse_unnamed_ids
from raycol.data.qrels import read_qrels
from raycol.data.raw_examples import RawExample, parse_examples
from raycol.data.readers.reader import BadRecord, CorpusFile, Rows, as_object
from raycol.data.sources import ExampleSource, OpenSource
from raycol.errors import InputError

__all__ = ["Example", "ExampleSource", "read_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """A query, its documents, and teacher scores of the documents.

    Args:
        where: file and line or row, for errors.
        query: the query's text.
        documents: the documents' texts, at least one.
        scores: teacher scores, one for each document.
        query_id: the query's id, if it has one.
        document_ids: the documents' ids, if all have one.
        positive_first: whether the first document is the positive; otherwise the highest-scored one is.
        documents_left_out: number of documents dropped because of `n_ways`.
    """

    where: str
    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    query_id: str | None = None
    document_ids: tuple[str, ...] | None = None
    positive_first: bool = True
    documents_left_out: int = 0

    def is_unrelated(self) -> bool:
        """Whether the example is a pair labelled 0: a query with a single document, which is not a positive.

        Raises:
            ValueError: the label of a pair is neither 0 nor 1.
        """
        if not self.scores or len(self.documents) + self.documents_left_out > 1:
            return False
        if self.scores[0] not in (0, 1):
            raise ValueError(
                f"its only document is labelled {self.scores[0]:g}; expected 1 (positive) or 0 (not used); to ignore "
                "the label, name the columns to use with 'columns'"
            )
        return self.scores[0] == 0


def read_examples(
    source: ExampleSource,
    on_error: OnError = "fail",
    problems: list[BadRecord] | None = None,
    n_ways: int | None = None,
) -> Iterator[Example]:
    """Yield the examples of a source, in order.

    Args:
        source: the files and their settings.
        on_error: "fail" raises at the first bad record, "skip" skips it.
        problems: with "skip", receives the skipped records.
        n_ways: maximum number of documents per example; keeps the positive and the first of the others.

    Raises:
        InputError: the source cannot be read or lacks a column; a bad record with `on_error="fail"`; no usable
            example.
    """
    opened = OpenSource(source, on_error, problems)
    items = read_beir(opened, n_ways) if opened.beir else _read_files(opened, n_ways)
    skipped = SkippedRecords(on_error, problems)
    count = 0
    for item in items:
        if isinstance(item, Example):
            count += 1
            yield item
            continue
        skipped.add(item)
    if not count:
        raise no_examples_error(source, skipped.first)


def no_examples_error(source: ExampleSource, first: BadRecord | None) -> InputError:
    """The error for a source without examples; `first` is the first skipped record, if any."""
    return InputError(f"{source.path}: no training examples in it; expected at least one{all_skipped(first)}")


def read_beir(opened: OpenSource, n_ways: int | None) -> Iterator[Example | BadRecord]:
    """Yield an example per judgement above 0 of a BEIR folder, in order."""
    qrels = qrels_path(opened.source.path, opened.source.split or "train")
    for query_id, grades in read_qrels(qrels).items():
        for document_id, grade in grades.items():
            if grade > 0:
                raw = RawExample(query_id=query_id, document_ids=(document_id,))
                yield _resolve(raw, f"{without_options(qrels)}, {query_id!r} and {document_id!r}", opened, n_ways)


def _read_files(opened: OpenSource, n_ways: int | None) -> Iterator[Example | BadRecord]:
    reader = ExampleReader(opened, n_ways)
    for file in opened.files:
        header = ExampleHeader(file, opened)
        yield from reader.parse(file, header, file.rows(header.select, header.infer_names))
    reader.check_used()


class ExampleReader:
    """Parses the records of a source's files, and resolves their ids.

    Args:
        opened: the source.
        n_ways: maximum number of documents per example; keeps the positive and the first of the others.
    """

    def __init__(self, opened: OpenSource, n_ways: int | None) -> None:
        self.looked_up: set[Role] = set()
        """Roles of which texts were looked up by id."""
        self.n_parsed = 0
        """Examples parsed so far, also those with an unknown id."""
        self._opened = opened
        self._n_ways = n_ways

    def parse(self, file: CorpusFile, header: ExampleHeader, rows: Rows) -> Iterator[Example | BadRecord]:
        """Yield the examples of rows of a file, in order."""
        if file.format == "npz":
            raise InputError(f"{file}: holds arrays; expected training examples in JSON Lines, CSV, TSV or Parquet")
        for position, record in rows:
            where = file.where(position.number)
            try:
                record = header.as_object(record)
                columns = header.columns if file.reader.has_columns else header.columns_of(record)
                if file.reader.has_columns and not file.is_table:  # an empty field of CSV is a missing value
                    record = {name: value or None for name, value in record.items()}
                raw_examples = parse_examples(record, columns)
            except ValueError as error:
                yield BadRecord(where, str(error))
                continue
            for raw in raw_examples:
                self.n_parsed += 1
                self.looked_up |= {"query"} if raw.query is None else set()
                self.looked_up |= {"document"} if not raw.documents else set()
                yield _resolve(raw, where, self._opened, self._n_ways)

    def check_used(self) -> None:
        """Raise `InputError` if the source names queries or documents, and no example refers to them."""
        if self.n_parsed:
            self._opened.check_used(self.looked_up)


class ExampleHeader:
    """Roles of the columns of a file: once for a table, per line for JSON."""

    def __init__(self, file: CorpusFile, opened: OpenSource) -> None:
        self.columns = Columns()
        self._file = file
        self._opened = opened
        self._mapping: Mapping[str, str] | None = opened.source.columns
        # Names in the first line of JSON.
        self._first_names: frozenset[str] = frozenset()
        # Column names for lines of JSON arrays, inferred from the first line.
        self._array_names: list[str] = []

    def infer_names(self, rows: list[list[str]]) -> list[str] | None:
        """Names for the columns of CSV or TSV if the first row is data; see `raycol.data.readers.delimited`."""
        first = rows[0]
        if self._mapping or is_example_header(first):
            return None
        if may_be_header(first) and not (len(first) > 1 and self._opened.has_id("query", first[0])):
            refuse_unnamed_ids(first, rows[1:])
            return None
        return name_by_position(rows, self._opened.has_id)

    def select(self, names: list[str]) -> list[str]:
        """The columns of a table to read."""
        try:
            self.columns = self._find(tuple(names))
        except ValueError as error:
            raise InputError(f"{self._file}: {error}") from None
        self._print_positional()
        return self.columns.names()

    def as_object(self, record: Any) -> dict[str, Any]:
        """A record as an object; the values of a JSON array, such as one of ColBERT's triples, are named by position.

        Raises:
            ValueError: the record is neither an object nor such an array, or unusable.
        """
        if not isinstance(record, list):
            return as_object(record)
        if len(record) < 2 or not isinstance(record[0], str | int):
            raise ValueError(
                f"a JSON array of {len(record)}; expected a query, a positive and negatives, texts or ids, or an id "
                "and pairs of an id and a score"
            )
        query_id, *others = record
        if all(isinstance(pair, list) and len(pair) == 2 for pair in others):
            ids, scores = zip(*others, strict=True)
            return {"query_id": query_id, "document_ids": list(ids), "scores": list(scores)}
        if not self._array_names:
            self._array_names = name_by_position([[str(value) for value in record]], self._opened.has_id)
            print_once(f"{self._file}: arrays without names; {', '.join(self._array_names)} by position")
        n_names = len(self._array_names)
        if len(record) != n_names and self._array_names[-1] == "score":
            raise ValueError(f"a JSON array of {len(record)}; expected {n_names}, as in the first line")
        # Later lines may have more negatives than the first.
        stem = "negative_id" if self._array_names[1] == "positive_id" else "negative"
        more = [f"{stem}_{number}" for number in range(n_names - 1, len(record) - 1)]
        return dict(zip([*self._array_names[: len(record)], *more], record, strict=True))

    def columns_of(self, record: dict[str, Any]) -> Columns:
        """The columns of a line of JSON. Roles by position come from the first line, since objects are unordered.

        Raises:
            ValueError: columns are missing.
        """
        names = tuple(record)
        if self.columns.by_position and self._first_names.issuperset(names):
            return self.columns
        columns = self._find(names, allow_positional=not self._first_names)
        if not self._first_names:
            self.columns, self._first_names = columns, frozenset(names)
            self._print_positional()
        return columns

    def _print_positional(self) -> None:
        if self.columns.by_position:
            print_once(f"{self._file}: no known column name; by position, {self.columns.describe()}")

    def _find(self, names: tuple[str, ...], *, allow_positional: bool = True) -> Columns:
        if self._mapping:
            return map_columns(self._mapping, names)
        return find_columns(names, allow_positional=allow_positional)


def _resolve(raw: RawExample, where: str, opened: OpenSource, n_ways: int | None) -> Example | BadRecord:
    """The example with its ids resolved to texts and at most `n_ways` documents; a `BadRecord` if an id is unknown."""
    n_documents = len(raw.documents or raw.document_ids or ())
    selected = _select_documents(raw, n_documents, n_ways or n_documents)
    query = raw.query
    if query is None:
        query_id = str(raw.query_id)
        if query_id not in (texts := opened.queries.find([query_id])):
            return BadRecord(where, f"the query id {raw.query_id!r} is not in {opened.queries.name}")
        query = texts[query_id].text
    ids = tuple(raw.document_ids[index] for index in selected) if raw.document_ids else None
    if raw.documents:
        documents = tuple(raw.documents[index] for index in selected)
    else:
        texts = opened.documents.find(ids or ())
        for id_ in ids or ():
            if id_ not in texts:
                return BadRecord(where, f"the document id {id_!r} is not in {opened.documents.name}")
        documents = tuple(texts[id_].text for id_ in ids or ())
    scores = tuple(raw.scores[index] for index in selected) if raw.scores else None
    left_out = n_documents - len(selected)
    return Example(where, query, documents, scores, raw.query_id, ids, raw.positive_first, left_out)


def _select_documents(raw: RawExample, n_documents: int, n_ways: int) -> list[int]:
    """Sorted indices of the documents to keep: the positive, or the highest-scored one, and the first others."""
    indices = list(range(n_documents))
    if raw.positive_first or not raw.scores:
        return indices[:n_ways]
    best = raw.scores.index(max(raw.scores))
    return sorted(sorted(indices, key=lambda index: index != best)[:n_ways])
