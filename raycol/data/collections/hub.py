"""Test collections on the Hugging Face hub, or in a local copy of such a dataset (hf:/path).

| layout | subsets | splits |
|---|---|---|
| BEIR | `corpus` and `queries`; judgements in the dataset NAME-qrels | of the judgements: train, test, ... |
| MTEB | `corpus`, `queries`, and `default` or `qrels`; or the same with a prefix, such as `en-corpus` | as in BEIR |
| NanoBEIR | `corpus`, `queries`, `qrels` | one a collection, such as NanoSciFact |
| BRIGHT | `documents`, `examples` | one a collection, such as biology |
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import repeat

from raycol.core.uris import base_name
from raycol.data.cells import read_id, read_ids
from raycol.data.collection import Collection
from raycol.data.collections.reference import CollectionRef
from raycol.data.files import HUB
from raycol.data.qrels import Judgement, collect_qrels, read_qrels_table
from raycol.data.queries import read_queries
from raycol.data.readers.hub import splits_of, subsets_of
from raycol.data.readers.reader import CorpusFile
from raycol.errors import InputError

_NANO = "Nano"
# BRIGHT's mark for a query without excluded documents.
_NOTHING = "N/A"


def hub_collections(uri: str, split: str | None = None) -> list[CollectionRef]:
    """List the collections of a dataset.

    Args:
        uri: hf:NAME, or hf: and the path of a local copy.
        split: of the judgements, by default `test` or the only one. Where each split is a collection, one of them.

    Raises:
        InputError: the dataset cannot be opened, has none of the layouts, or has no such split.
    """
    subsets = subsets_of(uri)
    name = base_name(uri.removeprefix(HUB))
    if {"documents", "examples"} <= {*subsets}:
        domains = _chosen(uri, splits_of(_file(uri, "examples")), split)
        return [CollectionRef(f"{name}/{domain}", partial(_open_bright, uri, domain)) for domain in domains]
    prefixes = [
        subset.removesuffix("corpus") for subset in subsets if subset == "corpus" or subset.endswith("-corpus")
    ]
    if not prefixes:
        if not subsets:
            splits_of(_file(uri, None))  # raises the reason
        raise InputError(
            f"{uri}: has the subsets {', '.join(subsets) or 'none'}; expected corpus, queries and qrels (as in BEIR, "
            "NanoBEIR and MTEB), or documents and examples (as in BRIGHT)"
        )
    collections = []
    for prefix in prefixes:
        qrels = _qrels_file(uri, subsets, prefix)
        splits = splits_of(qrels)
        if splits and all(other.startswith(_NANO) for other in splits):
            chosen = _chosen(uri, splits, split)
            collections += [CollectionRef(nano, partial(_open, uri, prefix, qrels, nano)) for nano in chosen]
            continue
        judged = split or ("test" if "test" in splits else splits[0] if len(splits) == 1 else None)
        if judged not in splits:
            problem = f"no split {split!r}" if split else "no split 'test'"
            raise InputError(f"{qrels}: {problem}; choose one of {', '.join(splits)} with `split=`")
        full_name = f"{name}/{prefix.removesuffix('-')}" if prefix else name
        collections.append(CollectionRef(full_name, partial(_open, uri, prefix, qrels, judged)))
    return collections


def _chosen(uri: str, splits: list[str], split: str | None) -> list[str]:
    """The splits that are collections: all, or one."""
    if split is not None and split not in splits:
        raise InputError(f"{uri}: no split {split!r}; each split is a collection: {', '.join(splits)}")
    return splits if split is None else [split]


def _file(uri: str, subset: str | None, split: str | None = None) -> CorpusFile:
    return CorpusFile(uri, "dataset", subset, split)


def _qrels_file(uri: str, subsets: tuple[str, ...], prefix: str) -> CorpusFile:
    """The judgements, without a split."""
    names = [f"{prefix}qrels", *(["default"] if not prefix else [])]
    subset = next((name for name in names if name in subsets), None)
    return _file(uri, subset) if subset else _file(f"{uri}-qrels", None)


def _text_file(uri: str, subset: str, split: str) -> CorpusFile:
    """A subset with texts: its split of the same name, or its only one."""
    splits = splits_of(_file(uri, subset))
    return _file(uri, subset, splits[0] if len(splits) == 1 else split)


def _open(uri: str, prefix: str, qrels: CorpusFile, split: str) -> Collection:
    notes: list[str] = []
    grades = read_qrels_table(_file(qrels.uri, qrels.subset, split), notes)
    corpus, queries = (_text_file(uri, f"{prefix}{role}", split) for role in ("corpus", "queries"))
    texts = read_queries(queries, grades, notes)
    return Collection(uri, (corpus,), texts, grades, tuple(notes))


def _open_bright(uri: str, domain: str) -> Collection:
    notes: list[str] = []
    examples = _file(uri, "examples", domain)
    excluded: dict[str, frozenset[str]] = {}
    qrels = collect_qrels(_scan_examples(examples, excluded), examples, notes)
    queries = read_queries(examples, qrels, notes)
    if excluded:
        notes.append(f"{len(excluded)} of {len(qrels)} queries exclude documents, which do not count as their hits")
    return Collection(uri, (_file(uri, "documents", domain),), queries, qrels, tuple(notes), excluded)


def _scan_examples(file: CorpusFile, excluded: dict[str, frozenset[str]]) -> Iterator[Judgement]:
    """Yield the judgements of BRIGHT's examples, and collect the excluded ids."""
    columns = ["id", "gold_ids", "excluded_ids"]

    def select(names: list[str]) -> list[str]:
        if missing := next((name for name in columns[:2] if name not in names), None):
            raise InputError(f"{file}: no column {missing!r} among {', '.join(names)}")
        return [name for name in columns if name in names]

    for position, row in file.rows(select):
        where = file.where(position.number)
        try:
            query_id = read_id(row["id"], "id")
            relevant = read_ids(row["gold_ids"], "gold_ids", is_list=False)
            others = read_ids(row.get("excluded_ids"), "excluded_ids", is_list=False)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if ids := frozenset(others) - {_NOTHING}:
            excluded[query_id] = ids
        yield from map(Judgement, repeat(where), repeat(query_id), dict.fromkeys(relevant), repeat(1))
