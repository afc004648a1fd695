"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (Thakur et al. 2021, arXiv 2104.08663).

Judgements may also be TREC's four columns (query, iteration, document, grade), as MS MARCO has them. Each of the files
may be compressed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from raycol.core.uris import join_uri
from raycol.data.cells import read_id
from raycol.data.corpus import OnError, Passage, read_corpus
from raycol.data.fields import Fields
from raycol.data.files import compression_of, folder_of, names_in, open_lines, what_is
from raycol.data.position import BadRecord
from raycol.data.readers.jsonl import parse_object, read_lines, write_objects
from raycol.errors import InputError

Qrels = dict[str, dict[str, int]]

_QUERY_NAMES = {"query-id", "query_id", "queryid", "qid", "query", "topic", "topic-id", "topic_id"}
_DOCUMENT_NAMES = {
    "corpus-id", "corpus_id", "corpusid", "doc-id", "doc_id", "docid", "docno", "document-id", "document_id", "pid",
    "passage-id", "passage_id", "doc", "document", "passage",
}  # fmt: skip
_GRADE_NAMES = {"score", "grade", "relevance", "rel", "label", "judgement", "judgment", "qrel"}
_GRADE = re.compile(r"([+-]?\d{1,9})(\.0*)?", re.ASCII)
_EXPECTED = "expected query-id, corpus-id and an integer score separated by tabs, or TREC's four columns"


@dataclass(frozen=True)
class Dataset:
    """A retrieval test collection: passages, queries by id, and judgements by query and passage id.

    `notes` says what a reader of metrics should know: judged documents that are missing, repeated judgements.
    """

    passages: list[Passage]
    queries: dict[str, str]
    qrels: Qrels
    skipped: tuple[BadRecord, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def load_beir(folder: str | Path, split: str = "test", on_error: OnError = "fail") -> Dataset:
    """Read a BEIR folder, local or by its URI, with the queries that the split judges.

    Raises:
        InputError: a file is missing or malformed, a judged query has no text, or the corpus has none of the judged
            documents.
    """
    if (kind := what_is(folder)) != "folder":
        found = "is a file" if kind == "file" else "no such folder"
        raise InputError(f"{folder}: {found}; expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    notes: list[str] = []
    qrels = read_qrels(find_qrels(folder, split), notes)
    texts = read_queries(_in_folder(folder, "queries.jsonl"), qrels)
    for query_id in qrels:
        if query_id not in texts:
            raise InputError(f"{folder}/queries.jsonl: no query {query_id!r}, which qrels/{split}.tsv judges")
    problems: list[BadRecord] = []
    passages = list(read_corpus(folder, on_error, problems))
    ids = {passage.id for passage in passages}
    notes += missing_documents(qrels, ids.__contains__, f"the corpus of {folder} (which has {passages[0].id!r:.60})")
    queries = {query_id: texts[query_id] for query_id in qrels}
    return Dataset(passages, queries, qrels, tuple(problems), tuple(notes))


def missing_documents(qrels: Qrels, has: Callable[[str], bool], what: str) -> list[str]:
    """A note if some of the judged documents are not there, where they count as not found.

    Raises:
        InputError: none of them is there: the ids are of another kind, or of another collection.
    """
    judged = list(dict.fromkeys(id_ for grades in qrels.values() for id_ in grades))
    missing = [id_ for id_ in judged if not has(id_)]
    if len(missing) == len(judged):
        raise InputError(
            f"none of the {len(judged)} judged documents, such as {judged[0]!r:.60}, is in {what}; expected "
            "judgements by the ids of its documents"
        )
    if not missing:
        return []
    return [f"{len(missing)} of {len(judged)} judged documents, such as {missing[0]!r:.60}, are not in {what}"]


def find_qrels(folder: str | Path, split: str) -> str:
    """Where a split's judgements are, whether or not there is such a file."""
    return _in_folder(folder, f"qrels/{split}.tsv")


def _in_folder(folder: str | Path, name: str) -> str:
    """A file of a folder by its name, or with the suffix of a compression after it."""
    plain = join_uri(str(folder), name)
    base = PurePosixPath(name).name
    there = [
        other
        for other in names_in(folder_of(plain))
        if other == base or (compression_of(other) and PurePosixPath(other).stem == base)
    ]
    if len(there) > 1:
        raise InputError(f"{folder}: holds {' and '.join(there)}; keep one of them")
    return join_uri(str(folder), str(PurePosixPath(name).with_name(there[0]))) if there else plain


def read_queries(path: str | Path, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Read queries.jsonl into texts by id: all, or those that are wanted; what is wrong with others is no matter.

    Raises:
        InputError: the file cannot be read, a line is not JSON or has no id, or a query has no text or stands twice.
    """
    queries = {}
    for position, line in read_lines(path):
        where = f"{path}, line {position.number}"
        try:
            record = parse_object(line)
            name = Fields().find("id", record)
            if name is None:
                raise ValueError("no '_id' (or 'id')")
            id_ = read_id(record[name], name)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if wanted is not None and id_ not in wanted:
            continue
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: query {id_!r} has no text")
        if id_ in queries:
            raise InputError(f"{where}: the query id {id_!r} stands on an earlier line already")
        queries[id_] = text
    return queries


@dataclass(frozen=True)
class _Layout:
    """How the lines of a qrels file are read: what separates fields, how many there are, and which are what."""

    tabs: bool
    width: int
    query: int = 0
    document: int = -2
    grade: int = -1

    def read(self, line: str) -> tuple[str, str, int] | None:
        """Query id, document id and grade, where the line is a judgement."""
        fields = _split(line, tabs=self.tabs)
        if len(fields) != self.width or self.width < 3:
            return None
        grade = _GRADE.fullmatch(fields[self.grade].strip())
        query_id, document_id = fields[self.query], fields[self.document]
        return (query_id, document_id, int(grade[1])) if grade and query_id and document_id else None


def _layout_of(line: str) -> _Layout:
    """The layout that a file's first line of data shows: three columns, or TREC's four."""
    tabs = "\t" in line
    width = len(_split(line, tabs=tabs))
    return _Layout(tabs, width if width in (3, 4) else 0)


def _layout_of_header(line: str) -> _Layout | None:
    """The layout that a header gives by the names of its columns, if the line is such a header."""
    tabs = "\t" in line
    names = [name.strip().lower() for name in _split(line, tabs=tabs)]
    roles = [
        next((at for at, name in enumerate(names) if name in known), None)
        for known in (_QUERY_NAMES, _DOCUMENT_NAMES, _GRADE_NAMES)
    ]
    query, document, grade = roles
    if query is None or document is None or grade is None:
        return None
    return _Layout(tabs, len(names), query, document, grade)


def _split(line: str, *, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else line.split()


def read_qrels(path: str | Path, notes: list[str] | None = None) -> Qrels:
    """Read judgements: query id, document id and a whole number as grade, separated by tabs or by spaces.

    TREC's second column, the iteration, may stand between. Columns are taken by the names of a header if there is
    one, else in this order.

    Args:
        path: the file, compressed or not.
        notes: receives a remark if judgements are repeated.

    Raises:
        InputError: no such file, a line that is no judgement, or a document with two grades for one query.
    """
    if what_is(path) != "file":
        parent = folder_of(str(path))
        splits = sorted({name.partition(".tsv")[0] for name in names_in(parent) if ".tsv" in name})
        have = f"splits here: {', '.join(splits)}" if splits else f"{parent} holds no .tsv file"
        raise InputError(f"{path}: no such file; {have}")
    lines = [(number, line) for number, line in enumerate(_text_lines(path), start=1) if line.strip()]
    layout = _layout_of_header(lines[0][1]) if lines else None
    # One of another number of columns than a judgement has is a header in other words.
    if layout or (lines and len(lines[0][1].split()) < 3):
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: no judgements in this file")
    layout = layout or _layout_of(lines[0][1])
    qrels: Qrels = {}
    for number, line in lines:
        found = layout.read(line)
        if found is None:
            raise InputError(f"{path}, line {number}: {_EXPECTED}; found {line!r:.100}")
        query_id, document_id, grade = found
        earlier = qrels.setdefault(query_id, {}).setdefault(document_id, grade)
        if earlier != grade:
            raise InputError(
                f"{path}, line {number}: the document {document_id!r} has the grade {grade} for the query "
                f"{query_id!r}, and {earlier} on an earlier line; leave one of them out"
            )
    repeated = len(lines) - sum(map(len, qrels.values()))
    if repeated and notes is not None:
        notes.append(f"{repeated} judgements of {path} stand there more than once, with the same grade")
    return qrels


def _text_lines(path: str | Path) -> list[str]:
    with open_lines(str(path)) as file:
        return [line.rstrip("\r") for line in file.read().decode("utf-8-sig").split("\n")]


def save_beir(folder: Path, dataset: Dataset, split: str = "test") -> None:
    """Write a dataset as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_objects(
        folder / "corpus.jsonl",
        ({"_id": passage.id, "title": passage.title, "text": passage.text} for passage in dataset.passages),
    )
    write_objects(folder / "queries.jsonl", ({"_id": id_, "text": text} for id_, text in dataset.queries.items()))
    save_qrels(folder / "qrels" / f"{split}.tsv", dataset.qrels)


def save_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements in BEIR's layout."""
    lines = ["query-id\tcorpus-id\tscore"]
    for query_id, grades in qrels.items():
        lines += [f"{query_id}\t{passage_id}\t{grade}" for passage_id, grade in grades.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
