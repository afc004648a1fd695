"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (Thakur et al. 2021, arXiv 2104.08663).

Qrels files may also have TREC's four columns (query, iteration, document, grade), as in MS MARCO. Every file may be
compressed.
"""

from __future__ import annotations

from pathlib import Path

from raycol.data.collection import Collection, Dataset
from raycol.data.corpus import OnError
from raycol.data.files import find_file, list_folder, parent_folder, path_kind
from raycol.data.locations import corpus_files
from raycol.data.qrels import read_qrels, save_qrels
from raycol.data.queries import read_queries
from raycol.data.readers.jsonl import write_objects
from raycol.errors import InputError


def load_beir(folder: str | Path, split: str = "test", on_error: OnError = "fail") -> Dataset:
    """Read a BEIR folder into memory; see `open_beir`.

    Raises:
        InputError: as `open_beir`, or a record is unusable, or the corpus has none of the judged documents.
    """
    return open_beir(folder, split).dataset(on_error)


def open_beir(folder: str | Path, split: str = "test") -> Collection:
    """Open a BEIR folder, given as a local path or URI; only the queries judged in the split.

    Raises:
        InputError: a file is missing or malformed, or a judged query has no text.
    """
    if (kind := path_kind(folder)) != "folder":
        problem = "is a file" if kind == "file" else "no such folder"
        raise InputError(f"{folder}: {problem}; expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    notes: list[str] = []
    qrels = read_qrels(qrels_path(folder, split), notes)
    queries = read_queries(find_file(folder, "queries.jsonl"), qrels, notes)
    return Collection(str(folder), tuple(corpus_files(str(folder))), queries, qrels, tuple(notes), split=split)


def qrels_path(folder: str | Path, split: str) -> str:
    """Path or URI of a split's judgements; the file need not exist."""
    return find_file(folder, f"qrels/{split}.tsv")


def other_qrels(folder: str | Path, split: str) -> list[str]:
    """Paths or URIs of the judgements of the other splits, sorted."""
    own = qrels_path(folder, split)
    parent = parent_folder(own)
    splits = sorted({name.partition(".tsv")[0] for name in list_folder(parent) if ".tsv" in name})
    return [path for path in (qrels_path(folder, name) for name in splits) if path != own]


def save_beir(folder: Path, dataset: Dataset, split: str = "test") -> None:
    """Write a dataset as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_objects(
        folder / "corpus.jsonl",
        ({"_id": passage.id, "title": passage.title, "text": passage.text} for passage in dataset.passages),
    )
    write_objects(folder / "queries.jsonl", ({"_id": id_, "text": text} for id_, text in dataset.queries.items()))
    save_qrels(folder / "qrels" / f"{split}.tsv", dataset.qrels)
