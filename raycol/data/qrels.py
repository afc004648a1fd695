"""Relevance judgements (qrels): a grade for pairs of a query and a document, from files of lines and from tables.

trec_eval and BEIR read grades as integers: a fraction is truncated towards zero (0.9 is 0, -1.5 is -1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raycol.data.cells import read_id
from raycol.data.files import list_folder, open_lines, parent_folder, path_kind
from raycol.data.readers.reader import CorpusFile, as_object
from raycol.errors import InputError

Qrels = dict[str, dict[str, int]]

_QUERY_NAMES = {"query-id", "query_id", "queryid", "qid", "query", "topic", "topic-id", "topic_id"}
_DOCUMENT_NAMES = {
    "corpus-id", "corpus_id", "corpusid", "doc-id", "doc_id", "docid", "docno", "document-id", "document_id", "pid",
    "passage-id", "passage_id", "doc", "document", "passage",
}  # fmt: skip
_GRADE_NAMES = {"score", "grade", "relevance", "rel", "label", "judgement", "judgment", "qrel"}
_GRADE = re.compile(r"[+-]?\d{1,9}(\.\d*)?", re.ASCII)
_LARGEST_GRADE = 999_999_999
_EXPECTED = "expected query-id, corpus-id and an integer score separated by tabs, or TREC's four columns"


class Judgement(NamedTuple):
    """A grade, and where it was read, for messages."""

    where: str
    query_id: str
    document_id: str
    grade: float


def collect_qrels(judgements: Iterable[Judgement], source: object, notes: list[str] | None = None) -> Qrels:
    """Return grades by query and document id.

    Args:
        judgements: the judgements, in order.
        source: where they come from, for messages.
        notes: receives notes on repeated judgements, fractions, and queries without a relevant document.

    Raises:
        InputError: a document has two grades for one query, or there are no judgements.
    """
    qrels: Qrels = {}
    total, fractions = 0, []
    for where, query_id, document_id, value in judgements:
        total += 1
        grade = math.trunc(value)
        if grade != value:
            fractions.append(value)
        earlier = qrels.setdefault(query_id, {}).setdefault(document_id, grade)
        if earlier != grade:
            raise InputError(
                f"{where}: document {document_id!r} has grade {grade} for query {query_id!r}, but "
                f"grade {earlier} on an earlier line; remove one of them"
            )
    if not total:
        raise InputError(f"{source}: no judgements; {_EXPECTED}")
    repeated = total - sum(map(len, qrels.values()))
    if notes is not None and repeated:
        notes.append(f"{repeated} judgements of {source} are repeated, with the same grade")
    if notes is not None and fractions:
        notes.append(
            f"{len(fractions)} of {total} grades of {source} are fractions, such as {fractions[0]:g}, and count as "
            "integers, truncated as in trec_eval"
        )
    irrelevant = sum(all(grade <= 0 for grade in grades.values()) for grades in qrels.values())
    if notes is not None and irrelevant:
        notes.append(
            f"{irrelevant} of {len(qrels)} queries have no document with a grade above 0 and count as 0, as in BEIR"
        )
    return qrels


@dataclass(frozen=True)
class _Layout:
    """Layout of a qrels file: the separator, the number of columns, and the column of each field."""

    tabs: bool
    width: int
    query: int = 0
    document: int = -2
    grade: int = -1

    def read(self, line: str) -> tuple[str, str, float] | None:
        """Query id, document id and grade; None if the line is not a judgement."""
        fields = _split(line, tabs=self.tabs)
        if len(fields) != self.width or self.width < 3:
            return None
        grade = fields[self.grade].strip()
        query_id, document_id = fields[self.query], fields[self.document]
        return (query_id, document_id, float(grade)) if _GRADE.fullmatch(grade) and query_id and document_id else None


def _layout_of(line: str) -> _Layout:
    """Infer the layout from the first line of data: three columns, or TREC's four."""
    tabs = "\t" in line
    width = len(_split(line, tabs=tabs))
    return _Layout(tabs, width if width in (3, 4) else 0)


def _layout_of_header(line: str) -> _Layout | None:
    """Layout given by the column names of a header; None if the line is not a header."""
    tabs = "\t" in line
    names = _split(line, tabs=tabs)
    query, document, grade = _roles(names)
    if query is None or document is None or grade is None:
        return None
    return _Layout(tabs, len(names), query, document, grade)


def _roles(names: Sequence[str]) -> list[int | None]:
    """Columns of the query id, the document id and the grade, by their names."""
    lowered = [name.strip().lower() for name in names]
    return [
        next((column for column, name in enumerate(lowered) if name in known), None)
        for known in (_QUERY_NAMES, _DOCUMENT_NAMES, _GRADE_NAMES)
    ]


def _split(line: str, *, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else line.split()


def read_qrels(path: str | Path, notes: list[str] | None = None) -> Qrels:
    """Read judgements: query id, document id and an integer grade, separated by tabs or spaces.

    Columns are identified by the header, if there is one; otherwise by this order, with TREC's iteration optional as
    the second column.

    Args:
        path: the file, compressed or not.
        notes: receives notes on repeated judgements and on fractions, which are refused without it.

    Raises:
        InputError: no such file, a line that is not a judgement, or a document with two grades for one query.
    """
    if path_kind(path) != "file":
        parent = parent_folder(str(path))
        splits = sorted({name.partition(".tsv")[0] for name in list_folder(parent) if ".tsv" in name})
        available = f"existing splits: {', '.join(splits)}" if splits else f"{parent} holds no .tsv file"
        raise InputError(f"{path}: no such file; {available}")
    return collect_qrels(_scan_lines(path, fractions=notes is not None), path, notes)


def _scan_lines(path: str | Path, *, fractions: bool) -> Iterator[Judgement]:
    lines = [(number, line) for number, line in enumerate(_text_lines(path), start=1) if line.strip()]
    layout = _layout_of_header(lines[0][1]) if lines else None
    # A first line of one or two columns is a header with unknown names.
    if layout or (lines and len(lines[0][1].split()) < 3):
        lines = lines[1:]
    for number, line in lines:
        layout = layout or _layout_of(line)
        judgement = layout.read(line)
        if judgement is None or not (fractions or judgement[2].is_integer()):
            raise InputError(f"{path}, line {number}: {_EXPECTED}; found {line!r:.100}")
        yield Judgement(f"{path}, line {number}", *judgement)


def _text_lines(path: str | Path) -> list[str]:
    with open_lines(str(path)) as file:
        return [line.rstrip("\r") for line in file.read().decode("utf-8-sig").split("\n")]


def read_qrels_table(file: CorpusFile, notes: list[str] | None = None) -> Qrels:
    """Read judgements from a table with a column for query ids, one for document ids and optionally one for grades.

    A document column may hold lists of ids. Without grades, as in NanoBEIR, every judged document is relevant.

    Args:
        file: the table.
        notes: as in `read_qrels`.

    Raises:
        InputError: it cannot be read, lacks a column, holds an invalid judgement, or a document has two grades.
    """
    return collect_qrels(_scan_table(file), file, notes)


def _scan_table(file: CorpusFile) -> Iterator[Judgement]:
    columns: dict[str, str] = {}

    def select(names: list[str]) -> list[str]:
        roles = zip(("query", "document", "grade"), _roles(names), strict=True)
        columns.update({role: names[column] for role, column in roles if column is not None})
        if not {"query", "document"} <= columns.keys():
            raise InputError(f"{file}: no query-id and corpus-id among its columns {', '.join(names)}")
        return list(columns.values())

    for position, row in file.rows(select):
        where = file.where(position.number)
        try:
            record = as_object(row)
            query_id = read_id(record[columns["query"]], columns["query"])
            cell = record[columns["document"]]
            cells = cell if isinstance(cell, list | np.ndarray) else [cell]
            ids = [read_id(value, columns["document"]) for value in cells]
            grade = _read_grade(record[columns["grade"]], columns["grade"]) if "grade" in columns else 1
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        yield from (Judgement(where, query_id, id_, grade) for id_ in ids)


def _read_grade(value: Any, name: str) -> float:
    if isinstance(value, str) and _GRADE.fullmatch(value.strip()):
        return float(value)
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _LARGEST_GRADE:
        raise ValueError(f"{name!r} is {value!r:.100}; expected a grade, an integer")
    return float(value)


def save_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements in BEIR's layout."""
    lines = ["query-id\tcorpus-id\tscore"]
    for query_id, grades in qrels.items():
        lines += [f"{query_id}\t{passage_id}\t{grade}" for passage_id, grade in grades.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
