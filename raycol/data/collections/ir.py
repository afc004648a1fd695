"""Test collections of ir_datasets, by name: ir:beir/scifact/test, ir:msmarco-passage/trec-dl-2019/judged, ..."""

from __future__ import annotations

from functools import partial
from typing import Any

from raycol.data.collection import Collection
from raycol.data.collections.reference import CollectionRef
from raycol.data.files import IR_DATASETS
from raycol.data.locations import corpus_files
from raycol.data.qrels import Judgement, collect_qrels
from raycol.data.queries import Query, collect_queries
from raycol.data.readers.ir import ir_errors, open_ir_dataset
from raycol.errors import InputError


def ir_collections(uri: str, split: str | None = None) -> list[CollectionRef]:
    """The collection of a dataset, ir:NAME, as a list of one.

    Raises:
        InputError: ir_datasets is not installed, has no such dataset, the dataset lacks documents, queries or
            judgements, or a split is given, which is a part of the name here.
    """
    if split is not None:
        raise InputError(
            f"{uri}: the name of a dataset of ir_datasets includes its split; leave `split={split!r}` out"
        )
    name = uri.removeprefix(IR_DATASETS)
    dataset = open_ir_dataset(uri)
    if not (dataset.has_queries() and dataset.has_qrels()):
        import ir_datasets

        parts = [other for other in ir_datasets.registry if other.startswith(f"{name}/")]
        judged = [other for other in parts if ir_datasets.load(other).has_qrels()]
        available = f"choose one of {', '.join(judged)}" if judged else "choose another dataset"
        raise InputError(f"{uri}: has no judgements or no queries; {available}")
    return [CollectionRef(name, partial(_open, uri))]


def _open(uri: str) -> Collection:
    dataset: Any = open_ir_dataset(uri)
    notes: list[str] = []
    with ir_errors(uri):
        judgements = (Judgement(uri, qrel.query_id, qrel.doc_id, qrel.relevance) for qrel in dataset.qrels_iter())
        qrels = collect_qrels(judgements, uri, notes)
        queries = (Query(uri, query.query_id, query.default_text()) for query in dataset.queries_iter())
        texts = collect_queries(queries, uri, qrels, notes)
    return Collection(uri, tuple(corpus_files(uri)), texts, qrels, tuple(notes))
