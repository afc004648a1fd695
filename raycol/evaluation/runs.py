"""Runs: the hits of a search method for every query of a test collection.

A run omits a passage that is a copy of its query, as BEIR's evaluation does: in collections such as ArguAna the corpus
contains the queries (`raycol.data.collection.is_query_copy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data.collection import Dataset, is_query_copy
from raycol.evaluation.metrics import DEPTH
from raycol.index.format.manifest import parent_document_id

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from raycol.index import Index

Hits = Iterable[tuple[str, float]]

# Passages encoded and scored, or queries searched, at a time: bounds the memory of embeddings and lets progress move.
_BATCH = 128


def run_exact(
    encoder: MultiVectorEncoder, dataset: Dataset, report: Report = no_report
) -> dict[str, dict[str, float]]:
    """Score every query against every passage by exact MaxSim in full precision, without an index."""
    import torch

    report(0, len(dataset.passages), "encoding the queries")
    queries = _encode_queries(encoder, dataset)
    best: list[list[tuple[str, float]]] = [[] for _ in queries]
    for start in range(0, len(dataset.passages), _BATCH):
        batch = dataset.passages[start : start + _BATCH]
        embeddings = encoder.encode_document([passage.content for passage in batch], show_progress_bar=False)
        with torch.inference_mode():
            scores = encoder.similarity(queries, embeddings).cpu().numpy()
        for row, scores_N in enumerate(scores):
            top = np.argsort(-scores_N, kind="stable")[: DEPTH + 1]
            best[row] = sorted(
                best[row] + [(batch[position].id, float(scores_N[position])) for position in top],
                key=lambda hit: (-hit[1], hit[0]),
            )[: DEPTH + 1]
        report(start + len(batch), len(dataset.passages), "encoding and scoring documents")
    return _as_run(dataset, best)


def run_index(
    encoder: MultiVectorEncoder, index: Index, dataset: Dataset, report: Report = no_report
) -> dict[str, dict[str, float]]:
    """Search an index for every query with default settings.

    A split document is scored by its best passage.
    """
    report(0, None, "encoding the queries")
    queries = [query.cpu().numpy() for query in _encode_queries(encoder, dataset)]
    search = _search_split if index.manifest.split else _search
    best: list[list[tuple[str, float]]] = []
    for start in range(0, len(queries), _BATCH):
        report(start, len(queries), "searching")
        best += search(index, queries[start : start + _BATCH], DEPTH + 1)
    report(len(queries), len(queries), "searching")
    return _as_run(dataset, best)


def _search(index: Index, queries: Sequence[NDArray[np.float32]], k: int) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=k)]


def _search_split(index: Index, queries: Sequence[NDArray[np.float32]], k: int) -> list[list[tuple[str, float]]]:
    """Return the best `k` documents of an index of passages; doubles the passages searched until they suffice."""
    best: list[dict[str, float]] = [{} for _ in queries]
    pending, n_passages = list(range(len(queries))), k
    while pending:
        results = _search(index, [queries[row] for row in pending], n_passages)
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


def run_bm25(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Lexical baseline: BM25 of bm25s (Lu 2024, arXiv 2407.03618) without English stop words."""
    import bm25s

    retriever = bm25s.BM25()
    contents = [passage.content for passage in dataset.passages]
    retriever.index(bm25s.tokenize(contents, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(dataset.queries.values()), stopwords="en", show_progress=False)
    depth = min(DEPTH + 1, len(contents))
    positions, scores = retriever.retrieve(tokens, k=depth, show_progress=False)
    hits = [
        [(dataset.passages[position].id, float(score)) for position, score in zip(row, values, strict=True)]
        for row, values in zip(positions, scores, strict=True)
    ]
    return _as_run(dataset, hits)


def _encode_queries(encoder: MultiVectorEncoder, dataset: Dataset) -> list:  # type: ignore[type-arg]
    return encoder.encode_query(list(dataset.queries.values()), show_progress_bar=False)  # type: ignore[no-any-return]


def query_copies(dataset: Dataset) -> set[str]:
    """Return the ids of unjudged passages that have the id and the text of a query."""
    return {passage.id for passage in dataset.passages if is_query_copy(passage, dataset.queries, dataset.qrels)}


def _as_run(dataset: Dataset, hits_by_query: Sequence[Hits]) -> dict[str, dict[str, float]]:
    copies = query_copies(dataset)
    return {
        query_id: {id_: score for id_, score in hits if id_ != query_id or id_ not in copies}
        for query_id, hits in zip(dataset.queries, hits_by_query, strict=True)
    }
