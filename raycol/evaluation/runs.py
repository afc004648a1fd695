"""Runs: what a way of searching returns for every query of a test collection.

A run leaves out a passage that is the query itself, as BEIR's evaluation does: in collections such as ArguAna the
queries stand in the corpus. There that is told by the id alone; here the text must be the same too, since other
collections number their queries and documents independently. A judged passage is never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data.beir import Dataset
from raycol.evaluation.metrics import DEPTH
from raycol.index.format.manifest import parent_document_id

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from raycol.index import Index

Hits = Iterable[tuple[str, float]]

# Documents are encoded and scored in groups of this many, which bounds the memory that embeddings take.
_GROUP = 512


def run_exact(
    encoder: MultiVectorEncoder, dataset: Dataset, report: Report = no_report
) -> dict[str, dict[str, float]]:
    """Exact MaxSim in full precision of every query against every passage: no index, no approximation."""
    import torch

    queries = _encode_queries(encoder, dataset)
    best: list[list[tuple[str, float]]] = [[] for _ in queries]
    for start in range(0, len(dataset.passages), _GROUP):
        group = dataset.passages[start : start + _GROUP]
        embeddings = encoder.encode_document([passage.content for passage in group], show_progress_bar=False)
        with torch.inference_mode():
            scores = encoder.similarity(queries, embeddings).cpu().numpy()
        for row, scores_N in enumerate(scores):
            top = np.argsort(-scores_N, kind="stable")[: DEPTH + 1]
            best[row] = sorted(
                best[row] + [(group[position].id, float(scores_N[position])) for position in top],
                key=lambda hit: (-hit[1], hit[0]),
            )[: DEPTH + 1]
        report(start + len(group), len(dataset.passages), "")
    return _as_run(dataset, best)


def run_index(encoder: MultiVectorEncoder, index: Index, dataset: Dataset) -> dict[str, dict[str, float]]:
    """What an index finds for every query, at its default settings.

    Where documents were split, each is scored by its best passage.
    """
    queries = [query.cpu().numpy() for query in _encode_queries(encoder, dataset)]
    search = _search_split if index.manifest.split else _search
    return _as_run(dataset, search(index, queries, DEPTH + 1))


def _search(index: Index, queries: Sequence[NDArray[np.float32]], k: int) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=k)]


def _search_split(index: Index, queries: Sequence[NDArray[np.float32]], k: int) -> list[list[tuple[str, float]]]:
    """The best `k` documents of an index of passages: more passages are asked for until they are of so many."""
    best: list[dict[str, float]] = [{} for _ in queries]
    waiting, n_passages = list(range(len(queries))), k
    while waiting:
        found = _search(index, [queries[row] for row in waiting], n_passages)
        for row, hits in zip(waiting, found, strict=True):
            best[row] = {}
            for id_, score in hits:
                best[row].setdefault(parent_document_id(id_), score)
        waiting = [
            row
            for row, hits in zip(waiting, found, strict=True)
            if len(best[row]) < k and len(hits) == n_passages < len(index)
        ]
        n_passages *= 2
    return [list(documents.items())[:k] for documents in best]


def run_bm25(dataset: Dataset) -> dict[str, dict[str, float]]:
    """The lexical baseline: BM25 as bm25s has it (Lu 2024, arXiv 2407.03618), English stop words left out."""
    import bm25s

    retriever = bm25s.BM25()
    contents = [passage.content for passage in dataset.passages]
    retriever.index(bm25s.tokenize(contents, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(dataset.queries.values()), stopwords="en", show_progress=False)
    depth = min(DEPTH + 1, len(contents))
    positions, scores = retriever.retrieve(tokens, k=depth, show_progress=False)
    found = [
        [(dataset.passages[position].id, float(score)) for position, score in zip(row, values, strict=True)]
        for row, values in zip(positions, scores, strict=True)
    ]
    return _as_run(dataset, found)


def _encode_queries(encoder: MultiVectorEncoder, dataset: Dataset) -> list:  # type: ignore[type-arg]
    return encoder.encode_query(list(dataset.queries.values()), show_progress_bar=False)  # type: ignore[no-any-return]


def own_passages(dataset: Dataset) -> set[str]:
    """Ids that a query shares with a passage which is the query itself, by its text, and which nobody judged."""
    return {
        passage.id
        for passage in dataset.passages
        if passage.id in dataset.queries
        and passage.id not in dataset.qrels.get(passage.id, {})
        and _folded(dataset.queries[passage.id]) in (_folded(passage.text), _folded(passage.content))
    }


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _as_run(dataset: Dataset, found: Sequence[Hits]) -> dict[str, dict[str, float]]:
    own = own_passages(dataset)
    return {
        query_id: {id_: score for id_, score in hits if id_ != query_id or id_ not in own}
        for query_id, hits in zip(dataset.queries, found, strict=True)
    }
