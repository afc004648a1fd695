"""Runs: the hits of a search method for every query of a test collection.

A run omits a passage that is a copy of its query, as BEIR's evaluation does: in collections such as ArguAna the corpus
contains the queries (`raycol.data.collection.is_query_copy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data import Passage
from raycol.data.collection import Dataset, is_query_copy
from raycol.errors import InputError
from raycol.evaluation.metrics import DEPTH
from raycol.evaluation.scoring import ModelScorer, score_passages
from raycol.evaluation.top_hits import Hits
from raycol.index.format.manifest import parent_document_id

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from raycol.index import Index

# Queries searched at a time: lets progress move.
_BATCH = 128


def run_exact(
    encoder: MultiVectorEncoder, dataset: Dataset, report: Report = no_report
) -> dict[str, dict[str, float]]:
    """Score every query against every passage by exact MaxSim in full precision, without an index."""
    report(0, len(dataset.passages), "encoding the queries")
    scorer = ModelScorer(encoder, list(dataset.queries.values()))
    return _as_run(
        dataset,
        score_passages(
            scorer,
            dataset.passages,
            DEPTH + 1,
            lambda done: report(done, len(dataset.passages), "encoding and scoring documents"),
        ),
    )


def run_index(
    encoder: MultiVectorEncoder, index: Index, dataset: Dataset, report: Report = no_report
) -> dict[str, dict[str, float]]:
    """Search an index for every query with default settings."""
    report(0, None, "encoding the queries")
    embeddings = encoder.encode_query(list(dataset.queries.values()), convert_to_numpy=True, show_progress_bar=False)
    return _as_run(dataset, search_index(index, embeddings, DEPTH + 1, {}, report))


def run_bm25(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Lexical baseline: see `search_bm25`."""
    return _as_run(dataset, search_bm25(dataset.passages, list(dataset.queries.values()), DEPTH + 1))


def search_index(
    index: Index,
    queries: Sequence[NDArray[np.float32]],
    depth: int,
    settings: Mapping[str, Any],
    report: Report = no_report,
) -> list[Hits]:
    """Return the best documents of each query; a split document is scored by its best passage.

    Args:
        index: the index.
        queries: embeddings, float32 [n_tokens, dim] each.
        depth: hits per query.
        settings: further arguments of `Index.search`; `effort` may also be `exact`, which scores all stored tokens.
        report: receives the progress, in queries.
    """
    search = _search_split if index.manifest.split else _search
    hits: list[Hits] = []
    for start in range(0, len(queries), _BATCH):
        report(start, len(queries), "searching")
        hits += search(index, queries[start : start + _BATCH], depth, settings)
    report(len(queries), len(queries), "searching")
    return hits


def _search(index: Index, queries: Sequence[NDArray[np.float32]], k: int, settings: Mapping[str, Any]) -> list[Hits]:
    if settings.get("effort") == "exact":
        results = index.exact(queries, k=k, threads=settings.get("threads"))
    else:
        results = index.search(queries, k=k, **settings)
    return [[(hit.id, hit.score) for hit in hits] for hits in results]


def _search_split(
    index: Index, queries: Sequence[NDArray[np.float32]], k: int, settings: Mapping[str, Any]
) -> list[Hits]:
    """Return the best `k` documents of an index of passages; doubles the passages searched until they suffice."""
    best: list[dict[str, float]] = [{} for _ in queries]
    pending, n_passages = list(range(len(queries))), k
    while pending:
        results = _search(index, [queries[row] for row in pending], n_passages, settings)
        for row, hits in zip(pending, results, strict=True):
            best[row] = {}
            for id_, score in hits:
                best[row].setdefault(parent_document_id(id_), score)
        pending = [
            row
            for row, hits in zip(pending, results, strict=True)
            if len(best[row]) < k and len(hits) == n_passages < len(index)
        ]
        n_passages *= 2
    return [list(documents.items())[:k] for documents in best]


def search_bm25(passages: Sequence[Passage], queries: Sequence[str], depth: int) -> list[Hits]:
    """Return the best passages of each query by BM25 of bm25s (Lu 2024, arXiv 2407.03618), without stop words.

    Raises:
        InputError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError:
        raise InputError("bm25: the package bm25s is missing; pip install 'raycol[demo]'") from None

    retriever = bm25s.BM25()
    contents = [passage.content for passage in passages]
    retriever.index(bm25s.tokenize(contents, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False)
    positions, scores = retriever.retrieve(tokens, k=min(depth, len(contents)), show_progress=False)
    return [
        [(passages[position].id, float(score)) for position, score in zip(row, values, strict=True)]
        for row, values in zip(positions, scores, strict=True)
    ]


def query_copies(dataset: Dataset) -> set[str]:
    """Return the ids of unjudged passages that have the id and the text of a query."""
    return {passage.id for passage in dataset.passages if is_query_copy(passage, dataset.queries, dataset.qrels)}


def _as_run(dataset: Dataset, hits_by_query: Sequence[Hits]) -> dict[str, dict[str, float]]:
    copies = query_copies(dataset)
    return {
        query_id: {id_: score for id_, score in hits if id_ != query_id or id_ not in copies}
        for query_id, hits in zip(dataset.queries, hits_by_query, strict=True)
    }
