"""Training examples: a query, documents, and what a teacher scored them, from every layout in common use.

They come as JSON Lines, CSV, TSV, Parquet or a Hugging Face dataset (`files` says from where), in these layouts:

    layout         columns                                                 documents, scores of them
    -------------  ------------------------------------------------------  -------------------------------------------
    pairs          query, positive                                         the positive
    triplets, ...  and negative, negative_1 .. negative_N or negatives     the positive, then the negatives
    with margins   and label: a margin for each negative                   scores 0, -margin_1, .. -margin_N
    with scores    and label: a score for each document                    those scores
    scored         query, documents (or document_1 .. document_N), scores  the documents, those scores
    distillation   query_id, document_ids, scores (PyLate)                 looked up by their ids
    by ids         query_id, positive_id, negative_ids, score              the same
    BEIR           a folder with qrels/<split>.tsv                         of each judgement above zero, the document

Other usual names count too (`columns` has them): anchor or question for the query; pos, answer, response or passage
for the positive; neg for negatives; docs for documents; score, labels or label for scores. A list may be a text, as
CSV needs it: in JSON, or as Python prints it (older datasets of PyLate's). Where no name is known, columns go by their
position, as in sentence-transformers: query, positive, negatives; all of them must be texts, those named id or ..._id
are left out. A list of positives is an example for each.

Ids are looked up in `queries` and `documents` (or `corpus`) beside the examples, files or folders of that name or
subsets of the dataset on the hub, or where `Source` says. `lookup` says in how much memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycol.data.beir import read_qrels
from raycol.data.columns import Columns, find_columns, is_name, list_names, named_columns
from raycol.data.corpus import OnError, read_records, refuse
from raycol.data.files import CorpusFile
from raycol.data.jsonl import parse_object
from raycol.data.position import Problem
from raycol.data.rows import Row, read_rows
from raycol.data.sources import OpenSource, Source
from raycol.errors import InputError
from raycol.locations import inside, shown

__all__ = ["Example", "Source", "read_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """A query, its documents (the first is the positive, unless only scores tell), and a teacher's scores of them.

    Args:
        where: which row it is, for errors.
        query: the query's text.
        documents: the documents' texts, one at least.
        scores: the teacher's, one a document.
        query_id: the query's id, if it has one.
        document_ids: the documents' ids, if all have one.
        positive_first: whether the first document is the positive; else the best scored one is.
        documents_left_out: those beyond `n_ways`.
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
        """Whether the only document is labelled 0: no positive of the query.

        Raises:
            ValueError: it has another label than 0 and 1, which does not tell.
        """
        if not self.scores or len(self.documents) + self.documents_left_out > 1:
            return False
        if self.scores[0] not in (0, 1):
            raise ValueError(
                f"its only document is labelled {self.scores[0]:g}; of such labels 1, a positive, and 0, left "
                "out, are known; name the columns to use with 'columns' to do without the label"
            )
        return self.scores[0] == 0


def read_examples(
    source: Source, on_error: OnError = "fail", problems: list[Problem] | None = None, n_ways: int | None = None
) -> Iterator[Example]:
    """Yield the examples of a source, in order.

    Args:
        source: where they are.
        on_error: "fail" raises at the first unusable record, "skip" leaves it out.
        problems: with "skip", receives what was left out.
        n_ways: keep at most so many documents of each: the first ones, with the positive among them.

    Raises:
        InputError: the source cannot be read or lacks a column; at the first unusable record where `on_error` is
            "fail"; at the end where nothing usable was found.
    """
    opened = OpenSource(source, on_error, problems)
    items = _of_beir(opened, n_ways) if opened.beir else _of_files(opened, n_ways)
    count, first = 0, None
    for item in items:
        if isinstance(item, Example):
            count += 1
            yield item
            continue
        refuse(item, on_error)
        first = first or item
        if problems is not None:
            problems.append(item)
    if not count:
        why = f"; every record was left out, the first was {first}" if first else ""
        raise InputError(f"{source.path}: no training examples in it; expected at least one{why}")


def _of_beir(opened: OpenSource, n_ways: int | None) -> Iterator[Example | Problem]:
    qrels = inside(opened.source.path, f"qrels/{opened.source.split or 'train'}.tsv")
    for query_id, grades in read_qrels(qrels).items():
        for document_id, grade in grades.items():
            if grade > 0:
                row = Row(query_id=query_id, document_ids=(document_id,))
                yield _complete(row, f"{shown(qrels)}, {query_id!r} and {document_id!r}", opened, n_ways)


def _of_files(opened: OpenSource, n_ways: int | None) -> Iterator[Example | Problem]:
    for file in opened.files:
        if file.format == "npz":
            raise InputError(f"{file}: holds arrays; expected training examples in JSON Lines, CSV, TSV or Parquet")
        header = _Header(file, opened.source.columns)
        for position, record in read_records(file, lambda _: True, header.choose):
            where = file.where(position.number)
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                if isinstance(record, bytes):
                    record = parse_object(record)
                    columns = header.columns_of(record)
                else:
                    columns = header.columns
                    if not file.is_table:  # CSV has no other way to say that there is nothing
                        record = {name: value or None for name, value in record.items()}
                rows = read_rows(record, columns)
            except ValueError as error:
                yield Problem(where, str(error))
                continue
            for row in rows:
                yield _complete(row, where, opened, n_ways)


class _Header:
    """Which columns of a file are what: of a table as a whole, of a line of JSON by its own names."""

    def __init__(self, file: CorpusFile, named: Mapping[str, str] | None) -> None:
        self.columns = Columns()
        self._file = file
        self._named = named
        self._first: frozenset[str] = frozenset()

    def choose(self, names: list[str]) -> list[str]:
        """The columns of a table to read."""
        try:
            self.columns = self._find(tuple(names))
        except ValueError as error:
            raise InputError(f"{self._file}: {error}") from None
        if self.columns.by_position and not self._file.is_table and not all(map(is_name, self.columns.names())):
            raise InputError(
                f"{self._file}, line 1: names no columns ({list_names(names)}); put a header above it, such as "
                "query, positive, negative"
            )
        return self.columns.names()

    def columns_of(self, record: dict[str, Any]) -> Columns:
        """The columns of a line of JSON. By position they go as in the first line: an object has no order.

        Raises:
            ValueError: columns are missing.
        """
        names = tuple(record)
        if self.columns.by_position and self._first.issuperset(names):
            return self.columns
        found = self._find(names, positions=not self._first)
        if not self._first:
            self.columns, self._first = found, frozenset(names)
        return found

    def _find(self, names: tuple[str, ...], *, positions: bool = True) -> Columns:
        return named_columns(self._named, names) if self._named else find_columns(names, positions=positions)


def _complete(row: Row, where: str, opened: OpenSource, n_ways: int | None) -> Example | Problem:
    """The example with no more than `n_ways` documents, its ids looked up; or what is wrong with it."""
    n_documents = len(row.documents or row.document_ids or ())
    places = _kept(row, n_documents, n_ways or n_documents)
    query = row.query
    if query is None:
        query = opened.queries.find(str(row.query_id))
        if query is None:
            return Problem(where, f"the query id {row.query_id!r} is not in {opened.queries.name}")
    ids = tuple(row.document_ids[place] for place in places) if row.document_ids else None
    if row.documents:
        documents = tuple(row.documents[place] for place in places)
    else:
        found = {id_: opened.documents.find(id_) for id_ in ids or ()}
        for id_, text in found.items():
            if text is None:
                return Problem(where, f"the document id {id_!r} is not in {opened.documents.name}")
        documents = tuple(str(found[id_]) for id_ in ids or ())
    scores = tuple(row.scores[place] for place in places) if row.scores else None
    left_out = n_documents - len(places)
    return Example(where, query, documents, scores, row.query_id, ids, row.positive_first, left_out)


def _kept(row: Row, n_documents: int, n_ways: int) -> list[int]:
    """Places of the documents that are kept, in their order."""
    places = list(range(n_documents))
    if row.positive_first or not row.scores:
        return places[:n_ways]
    best = row.scores.index(max(row.scores))
    return sorted(sorted(places, key=lambda place: place != best)[:n_ways])
