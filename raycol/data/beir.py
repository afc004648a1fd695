"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (Thakur et al. 2021, arXiv 2104.08663)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from raycol.data.corpus import OnError, Passage, check_id, read_corpus
from raycol.data.files import folder_of, names_in, open_file, reading, what_is
from raycol.data.jsonl import read_objects, write_objects
from raycol.data.position import Problem
from raycol.errors import InputError
from raycol.locations import inside

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Dataset:
    """A retrieval test collection: passages, queries by id, and judgements by query and passage id."""

    passages: list[Passage]
    queries: dict[str, str]
    qrels: Qrels
    skipped: tuple[Problem, ...] = ()


def load_beir(folder: str | Path, split: str = "test", on_error: OnError = "fail") -> Dataset:
    """Read a BEIR folder, local or by its URI, with the queries that the split judges.

    Raises:
        InputError: a file is missing or malformed, or a judged query has no text.
    """
    if (kind := what_is(folder)) != "folder":
        found = "is a file" if kind == "file" else "no such folder"
        raise InputError(f"{folder}: {found}; expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    qrels = read_qrels(inside(str(folder), f"qrels/{split}.tsv"))
    texts = read_queries(inside(str(folder), "queries.jsonl"))
    for query_id in qrels:
        if query_id not in texts:
            raise InputError(f"{folder}/queries.jsonl: no query {query_id!r}, which qrels/{split}.tsv judges")
    problems: list[Problem] = []
    passages = list(read_corpus(folder, on_error, problems))
    return Dataset(passages, {query_id: texts[query_id] for query_id in qrels}, qrels, tuple(problems))


def read_queries(path: str | Path) -> dict[str, str]:
    """Read queries.jsonl into texts by id."""
    queries = {}
    for position, record in read_objects(path):
        where = f"{path}, line {position.number}"
        try:
            id_ = check_id(record)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: query {id_!r} has no text")
        if id_ in queries:
            raise InputError(f"{where}: the query id {id_!r} stands on an earlier line already")
        queries[id_] = text
    return queries


def read_qrels(path: str | Path) -> Qrels:
    """Read a qrels file: a header if any, then query id, passage id and an integer grade, separated by tabs."""
    if what_is(path) != "file":
        parent = folder_of(str(path))
        splits = sorted(PurePath(name).stem for name in names_in(parent) if name.endswith(".tsv"))
        have = f"splits here: {', '.join(splits)}" if splits else f"{parent} holds no .tsv file"
        raise InputError(f"{path}: no such file; {have}")
    with reading(path), open_file(str(path)) as file:
        lines = file.read().decode().split("\n")
    qrels: Qrels = {}
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and not fields[-1].lstrip("-").isdigit()):
            continue  # the header
        try:
            query_id, passage_id, grade = fields
            qrels.setdefault(query_id, {})[passage_id] = int(grade)
        except ValueError:
            raise InputError(
                f"{path}, line {number}: expected query-id, corpus-id and an integer score separated by tabs"
            ) from None
    if not qrels:
        raise InputError(f"{path}: no judgements in this file")
    return qrels


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
