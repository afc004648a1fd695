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
    DPR, Tevatron  query, positive_ctxs or positive_passages, negative_..  an example of each positive
    labeled list   query, answer (a list), labels of 0 and 1               an example of each 1, with all 0
    BEIR           a folder with qrels/<split>.tsv                         of each judgement above zero, the document

Other usual names count too (`columns` has them): anchor or question for the query; pos, answer, response or passage
for the positive; neg for negatives; docs for documents; score, labels or label for scores. A list may be a text, as
CSV needs it: in JSON, or as Python prints it (older datasets of PyLate's). Where no name is known, columns go by their
position, as in sentence-transformers: query, positive, negatives; all of them must be texts, those named id or ..._id
are left out. A list of positives is an example for each.

Without names, in CSV and TSV without a header or in lines of JSON arrays (ColBERT's triples), values go by their
position too, and are ids where they are whole numbers, or where the lookups have them. What goes by its position is
printed in one line.

Ids are looked up in `queries` and `documents` (or `corpus`) beside the examples, files or folders of that name or
subsets of the dataset on the hub, or where `ExampleSource` says. `lookup` says in how much memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycol.core.progress import print_once
from raycol.core.uris import without_options
from raycol.data.beir import find_qrels, read_qrels
from raycol.data.columns import Columns, find_columns, named_columns
from raycol.data.corpus import OnError, read_records, refuse
from raycol.data.files import CorpusFile
from raycol.data.lookup import Role
from raycol.data.position import BadRecord
from raycol.data.readers.headerless import name_by_position, names_examples, reads_as_names, refuse_nameless_ids
from raycol.data.readers.jsonl import parse_json
from raycol.data.rows import RawExample, read_rows
from raycol.data.sources import ExampleSource, OpenSource
from raycol.errors import InputError

__all__ = ["Example", "ExampleSource", "read_examples"]


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
    source: ExampleSource,
    on_error: OnError = "fail",
    problems: list[BadRecord] | None = None,
    n_ways: int | None = None,
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


def _of_beir(opened: OpenSource, n_ways: int | None) -> Iterator[Example | BadRecord]:
    qrels = find_qrels(opened.source.path, opened.source.split or "train")
    for query_id, grades in read_qrels(qrels).items():
        for document_id, grade in grades.items():
            if grade > 0:
                row = RawExample(query_id=query_id, document_ids=(document_id,))
                yield _complete(row, f"{without_options(qrels)}, {query_id!r} and {document_id!r}", opened, n_ways)


def _of_files(opened: OpenSource, n_ways: int | None) -> Iterator[Example | BadRecord]:
    looked_up: set[Role] = set()
    count = 0
    for file in opened.files:
        if file.format == "npz":
            raise InputError(f"{file}: holds arrays; expected training examples in JSON Lines, CSV, TSV or Parquet")
        header = _Header(file, opened)
        for position, record in read_records(file, header.guess, header.choose):
            where = file.where(position.number)
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                if isinstance(record, bytes):
                    record = header.as_object(parse_json(record))
                    columns = header.columns_of(record)
                else:
                    columns = header.columns
                    if not file.is_table:  # CSV has no other way to say that there is nothing
                        record = {name: value or None for name, value in record.items()}
                rows = read_rows(record, columns)
            except ValueError as error:
                yield BadRecord(where, str(error))
                continue
            for row in rows:
                count += 1
                looked_up |= {"query"} if row.query is None else set()
                looked_up |= {"document"} if not row.documents else set()
                yield _complete(row, where, opened, n_ways)
    if count:
        opened.check_used(looked_up)


class _Header:
    """Which columns of a file are what: of a table as a whole, of a line of JSON by its own names."""

    def __init__(self, file: CorpusFile, opened: OpenSource) -> None:
        self.columns = Columns()
        self._file = file
        self._opened = opened
        self._named: Mapping[str, str] | None = opened.source.columns
        self._first: frozenset[str] = frozenset()
        # What the values in lines of JSON arrays are, told by the first line.
        self._roles: list[str] = []

    def guess(self, rows: list[list[str]]) -> list[str] | None:
        """Names for the columns of CSV or TSV if the first row is data; see `raycol.data.readers.delimited`."""
        first = rows[0]
        if self._named or names_examples(first):
            return None
        if reads_as_names(first) and not (len(first) > 1 and self._opened.has("query", first[0])):
            refuse_nameless_ids(first, rows[1:])
            return None
        return name_by_position(rows, self._opened.has)

    def choose(self, names: list[str]) -> list[str]:
        """The columns of a table to read."""
        try:
            self.columns = self._find(tuple(names))
        except ValueError as error:
            raise InputError(f"{self._file}: {error}") from None
        self._tell()
        return self.columns.names()

    def as_object(self, record: Any) -> dict[str, Any]:
        """A record of JSON by names: an array has its values by position, as ColBERT's triples.

        Raises:
            ValueError: it is neither an object nor such an array.
        """
        if isinstance(record, dict):
            return record
        if not isinstance(record, list):
            raise ValueError(f"not a JSON object but a {type(record).__name__}")
        if len(record) < 2 or not isinstance(record[0], str | int):
            raise ValueError(
                f"a JSON array of {len(record)}; expected a query, a positive and negatives, texts or ids, or an id "
                "and pairs of an id and a score"
            )
        query_id, *others = record
        if all(isinstance(pair, list) and len(pair) == 2 for pair in others):
            ids, scores = zip(*others, strict=True)
            found = {"query_id": query_id, "document_ids": list(ids), "scores": list(scores)}
        else:
            if not self._roles:
                self._roles = name_by_position([[str(value) for value in record]], self._opened.has)
                print_once(f"{self._file}: arrays without names; {', '.join(self._roles)} by their position")
            if len(record) != len(self._roles) and self._roles[-1] == "score":
                raise ValueError(f"a JSON array of {len(record)}; expected {len(self._roles)}, as in the first line")
            # Other lines may have more negatives.
            stem = "negative_id" if self._roles[1] == "positive_id" else "negative"
            more = [f"{stem}_{number}" for number in range(len(self._roles) - 1, len(record) - 1)]
            found = dict(zip([*self._roles[: len(record)], *more], record, strict=True))
        return found

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
            self._tell()
        return found

    def _tell(self) -> None:
        if self.columns.by_position:
            print_once(f"{self._file}: no column is known by its name; by position, {self.columns.describe()}")

    def _find(self, names: tuple[str, ...], *, positions: bool = True) -> Columns:
        return named_columns(self._named, names) if self._named else find_columns(names, positions=positions)


def _complete(row: RawExample, where: str, opened: OpenSource, n_ways: int | None) -> Example | BadRecord:
    """The example with no more than `n_ways` documents, its ids looked up; or what is wrong with it."""
    n_documents = len(row.documents or row.document_ids or ())
    places = _kept(row, n_documents, n_ways or n_documents)
    query = row.query
    if query is None:
        query = opened.queries.find(str(row.query_id))
        if query is None:
            return BadRecord(where, f"the query id {row.query_id!r} is not in {opened.queries.name}")
    ids = tuple(row.document_ids[place] for place in places) if row.document_ids else None
    if row.documents:
        documents = tuple(row.documents[place] for place in places)
    else:
        found = {id_: opened.documents.find(id_) for id_ in ids or ()}
        for id_, text in found.items():
            if text is None:
                return BadRecord(where, f"the document id {id_!r} is not in {opened.documents.name}")
        documents = tuple(str(found[id_]) for id_ in ids or ())
    scores = tuple(row.scores[place] for place in places) if row.scores else None
    left_out = n_documents - len(places)
    return Example(where, query, documents, scores, row.query_id, ids, row.positive_first, left_out)


def _kept(row: RawExample, n_documents: int, n_ways: int) -> list[int]:
    """Places of the documents that are kept, in their order."""
    places = list(range(n_documents))
    if row.positive_first or not row.scores:
        return places[:n_ways]
    best = row.scores.index(max(row.scores))
    return sorted(sorted(places, key=lambda place: place != best)[:n_ways])
