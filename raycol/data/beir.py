"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (Thakur et al. 2021, arXiv 2104.08663).

Qrels files may also have TREC's four columns (query, iteration, document, grade), as in MS MARCO. Every file may be
compressed.
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
from raycol.data.files import compression_of, list_folder, open_lines, parent_folder, path_kind
from raycol.data.readers.jsonl import parse_object, read_lines, write_objects
from raycol.data.readers.reader import BadRecord
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

    `notes` are caveats about the metrics: judged documents missing from the corpus, repeated judgements.
    """

    passages: list[Passage]
    queries: dict[str, str]
    qrels: Qrels
    skipped: tuple[BadRecord, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def load_beir(folder: str | Path, split: str = "test", on_error: OnError = "fail") -> Dataset:
    """Read a BEIR folder, given as a local path or URI; only the queries judged in the split.

    Raises:
        InputError: a file is missing or malformed, a judged query has no text, or the corpus has none of the judged
            documents.
    """
    if (kind := path_kind(folder)) != "folder":
        problem = "is a file" if kind == "file" else "no such folder"
        raise InputError(f"{folder}: {problem}; expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    notes: list[str] = []
    qrels = read_qrels(qrels_path(folder, split), notes)
    texts = read_queries(_find_file(folder, "queries.jsonl"), qrels)
    for query_id in qrels:
        if query_id not in texts:
            raise InputError(f"{folder}/queries.jsonl: no query {query_id!r}, which qrels/{split}.tsv judges")
    problems: list[BadRecord] = []
    passages = list(read_corpus(folder, on_error, problems))
    ids = {passage.id for passage in passages}
    notes += missing_documents(qrels, ids.__contains__, f"the corpus of {folder} (which has {passages[0].id!r:.60})")
    queries = {query_id: texts[query_id] for query_id in qrels}
    return Dataset(passages, queries, qrels, tuple(problems), tuple(notes))


def missing_documents(qrels: Qrels, has_document: Callable[[str], bool], collection: str) -> list[str]:
    """A note if judged documents are missing from the collection, so that metrics count them as not retrieved.

    Args:
        qrels: the judgements.
        has_document: whether the collection has a document id.
        collection: name of the collection, for the note.

    Raises:
        InputError: all of them are missing: the judgements belong to another collection or use other ids.
    """
    judged = list(dict.fromkeys(id_ for grades in qrels.values() for id_ in grades))
    missing = [id_ for id_ in judged if not has_document(id_)]
    if len(missing) == len(judged):
        raise InputError(
            f"none of the {len(judged)} judged documents, such as {judged[0]!r:.60}, is in {collection}; expected "
            "judgements with the ids of its documents"
        )
    if not missing:
        return []
    return [f"{len(missing)} of {len(judged)} judged documents, such as {missing[0]!r:.60}, are not in {collection}"]


def qrels_path(folder: str | Path, split: str) -> str:
    """Path or URI of a split's judgements; the file need not exist."""
    return _find_file(folder, f"qrels/{split}.tsv")


def _find_file(folder: str | Path, name: str) -> str:
    """Path or URI of a file in a folder; a compression suffix after the name is allowed."""
    plain = join_uri(str(folder), name)
    base = PurePosixPath(name).name
    matches = [
        other
        for other in list_folder(parent_folder(plain))
        if other == base or (compression_of(other) and PurePosixPath(other).stem == base)
    ]
    if len(matches) > 1:
        raise InputError(f"{folder}: holds {' and '.join(matches)}; keep one of them")
    return join_uri(str(folder), str(PurePosixPath(name).with_name(matches[0]))) if matches else plain


def read_queries(path: str | Path, ids: Collection[str] | None = None) -> dict[str, str]:
    """Read queries.jsonl into texts by id.

    Args:
        path: the file, compressed or not.
        ids: read only these queries; the others are not checked beyond their ids. By default all.

    Raises:
        InputError: the file cannot be read, a line is not JSON or has no id, or a query has no text or is repeated.
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
        if ids is not None and id_ not in ids:
            continue
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: query {id_!r} has no text")
        if id_ in queries:
            raise InputError(f"{where}: duplicate query id {id_!r}; keep one line for each query")
        queries[id_] = text
    return queries


@dataclass(frozen=True)
class _Layout:
    """Layout of a qrels file: the separator, the number of columns, and the column of each field."""

    tabs: bool
    width: int
    query: int = 0
    document: int = -2
    grade: int = -1

    def read(self, line: str) -> tuple[str, str, int] | None:
        """Query id, document id and grade; None if the line is not a judgement."""
        fields = _split(line, tabs=self.tabs)
        if len(fields) != self.width or self.width < 3:
            return None
        grade = _GRADE.fullmatch(fields[self.grade].strip())
        query_id, document_id = fields[self.query], fields[self.document]
        return (query_id, document_id, int(grade[1])) if grade and query_id and document_id else None


def _layout_of(line: str) -> _Layout:
    """Infer the layout from the first line of data: three columns, or TREC's four."""
    tabs = "\t" in line
    width = len(_split(line, tabs=tabs))
    return _Layout(tabs, width if width in (3, 4) else 0)


def _layout_of_header(line: str) -> _Layout | None:
    """Layout given by the column names of a header; None if the line is not a header."""
    tabs = "\t" in line
    names = [name.strip().lower() for name in _split(line, tabs=tabs)]
    roles = [
        next((column for column, name in enumerate(names) if name in known), None)
        for known in (_QUERY_NAMES, _DOCUMENT_NAMES, _GRADE_NAMES)
    ]
    query, document, grade = roles
    if query is None or document is None or grade is None:
        return None
    return _Layout(tabs, len(names), query, document, grade)


def _split(line: str, *, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else line.split()


def read_qrels(path: str | Path, notes: list[str] | None = None) -> Qrels:
    """Read judgements: query id, document id and an integer grade, separated by tabs or spaces.

    Columns are identified by the header, if there is one; otherwise by this order, with TREC's iteration optional as
    the second column.

    Args:
        path: the file, compressed or not.
        notes: receives a note if judgements are repeated.

    Raises:
        InputError: no such file, a line that is not a judgement, or a document with two grades for one query.
    """
    if path_kind(path) != "file":
        parent = parent_folder(str(path))
        splits = sorted({name.partition(".tsv")[0] for name in list_folder(parent) if ".tsv" in name})
        available = f"existing splits: {', '.join(splits)}" if splits else f"{parent} holds no .tsv file"
        raise InputError(f"{path}: no such file; {available}")
    lines = [(number, line) for number, line in enumerate(_text_lines(path), start=1) if line.strip()]
    layout = _layout_of_header(lines[0][1]) if lines else None
    # A first line of one or two columns is a header with unknown names.
    if layout or (lines and len(lines[0][1].split()) < 3):
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: no judgements; {_EXPECTED}")
    layout = layout or _layout_of(lines[0][1])
    qrels: Qrels = {}
    for number, line in lines:
        judgement = layout.read(line)
        if judgement is None:
            raise InputError(f"{path}, line {number}: {_EXPECTED}; found {line!r:.100}")
        query_id, document_id, grade = judgement
        earlier = qrels.setdefault(query_id, {}).setdefault(document_id, grade)
        if earlier != grade:
            raise InputError(
                f"{path}, line {number}: document {document_id!r} has grade {grade} for query {query_id!r}, but "
                f"grade {earlier} on an earlier line; remove one of them"
            )
    repeated = len(lines) - sum(map(len, qrels.values()))
    if repeated and notes is not None:
        notes.append(f"{repeated} judgements of {path} are repeated, with the same grade")
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
