"""Test collections in folders, local or by URI: BEIR's layout, MS MARCO's, or a folder of such folders.

MS MARCO's layout is collection.tsv (id and text), queries.tsv and qrels.tsv; or queries.<split>.tsv and
qrels.<split>.tsv. Judgements have three columns or TREC's four, and may end in .txt or .trec. Headers are optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from raycol.core.uris import base_name, join_uri
from raycol.data.beir import open_beir
from raycol.data.collection import Collection
from raycol.data.collections.reference import CollectionRef
from raycol.data.collections.splits import SplitChoice, test_split
from raycol.data.files import find_file, list_folder, path_kind, uncompressed_name
from raycol.data.locations import corpus_files
from raycol.data.qrels import read_qrels
from raycol.data.queries import read_queries
from raycol.data.readers.reader import CorpusFile
from raycol.errors import InputError

_EXPECTED = (
    "expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), MS MARCO's files (collection.tsv, queries.tsv, "
    "qrels.tsv), a folder of such folders, hf:NAME, ir:NAME, or a benchmark (beir, nanobeir, bright)"
)
_MSMARCO_QRELS = re.compile(r"qrels(\.(?P<split>.+))?\.(tsv|txt|trec)")


# Chooses one of a folder's splits, given with their files.
_Choice = Callable[[str, Mapping[str, str]], str]


def folder_collections(folder: str, split: str | None = None, choose: SplitChoice = test_split) -> list[CollectionRef]:
    """List the collections of a folder: itself, or those in its subfolders.

    A subfolder of collections is a group, such as CQADupStack with a folder for each forum.

    Args:
        folder: path or URI.
        split: of the judgements.
        choose: chooses one if it is not given.

    Raises:
        InputError: there is no such folder, it holds no collection, or a collection has no such split.
    """
    if (kind := path_kind(folder)) != "folder":
        raise InputError(f"{folder}: {'is a file' if kind == 'file' else 'no such folder'}; {_EXPECTED}")
    choice = partial(_choose, split=split, choose=choose)
    collections = _find(folder, base_name(folder) or Path(folder).resolve().name, choice)
    if not collections:
        for name in list_folder(folder):
            subfolder = join_uri(folder, name)
            if name.startswith(".") or path_kind(subfolder) != "folder":
                continue
            inside = _find(subfolder, name, choice)
            collections += inside or [
                ref
                for inner in list_folder(subfolder)
                for ref in _find(join_uri(subfolder, inner), f"{name}/{inner}", choice, group=name)
            ]
    if not collections:
        raise InputError(f"{folder}: holds no test collection; {_EXPECTED}")
    return collections


def _find(folder: str, name: str, choice: _Choice, group: str | None = None) -> list[CollectionRef]:
    """The collection of a folder, if it is one."""
    names = [uncompressed_name(other) for other in list_folder(folder)] if path_kind(folder) == "folder" else []
    if "qrels" in names and "queries.jsonl" in names:
        files = map(uncompressed_name, list_folder(join_uri(folder, "qrels")))
        splits = {file.removesuffix(".tsv"): file for file in files if file.endswith(".tsv")}
        return [CollectionRef(name, partial(open_beir, folder, choice(folder, splits)), group)]
    if "collection.tsv" in names:
        matches = filter(None, map(_MSMARCO_QRELS.fullmatch, names))
        splits = {match["split"] or "": match[0] for match in matches}
        judged = choice(folder, splits)
        queries = f"queries.{judged}.tsv" if f"queries.{judged}.tsv" in names else "queries.tsv"
        return [CollectionRef(name, partial(_open_msmarco, folder, queries, splits[judged], judged), group)]
    return []


def _choose(folder: str, splits: Mapping[str, str], split: str | None, choose: SplitChoice) -> str:
    """The given split, or the chosen one."""
    if split is None:
        chosen = choose(folder, list(splits))
        split = "test" if chosen is None else chosen
    if split not in splits:
        available = f"existing judgements: {', '.join(sorted(splits.values()))}" if splits else "it has no judgements"
        raise InputError(f"{folder}: no judgements of the split {split!r}; {available}")
    return split


def _open_msmarco(folder: str, queries: str, qrels: str, split: str) -> Collection:
    notes: list[str] = []
    grades = read_qrels(find_file(folder, qrels), notes)
    texts = read_queries(CorpusFile(find_file(folder, queries), "tsv"), grades, notes)
    corpus = corpus_files(find_file(folder, "collection.tsv"))
    return Collection(folder, tuple(corpus), texts, grades, tuple(notes), split=split)
