"""Study `pooling`: what token pooling and bits cost in ranking, and save in bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from raycol.evaluation.metrics import depth_of, parse_metrics
from raycol.evaluation.runs import search_index
from raycol.index import Index
from raycol.studies.cells import SCRATCH, Bench, CellSettings, OpenCollection, Point


class PoolingSettings(CellSettings):
    """Settings of a cell: an index of pooled, quantised embeddings, scored exactly."""

    pool_factor: float = 1.0
    """Tokens are pooled to about this fraction of their number."""

    bits: int = 4
    """Bits per dimension of the residual."""

    one_vector: bool = False
    """Store the mean of a document's tokens only."""


def measure(settings: PoolingSettings, collection: str | None, bench: Bench) -> list[Point]:
    """Build the index of a cell, and score all of its documents, so that search adds no error of its own."""
    opened = bench.open(collection)
    depth = depth_of(parse_metrics(bench.metrics)) + opened.margin
    with tempfile.TemporaryDirectory(dir=bench.config.out, prefix=SCRATCH) as folder:
        index = Index.create(
            f"{folder}/index",
            opened.embeddings.index_documents(one_vector=settings.one_vector),
            bits=settings.bits,
            pool_factor=settings.pool_factor,
            seed=bench.config.seed,
        )
        stats = index.stats()
        hits = index.exact(list(opened.embeddings.queries), depth, threads=1)
        searched = search_index(index, list(opened.embeddings.queries), depth, {"threads": 1})
    exact = opened.score([[(hit.id, hit.score) for hit in found] for found in hits])
    return [
        Point(
            collection=opened.name,
            per_query=exact | {f"{name}, searched": values for name, values in opened.score(searched).items()},
            numbers={
                "bytes/document": stats.bytes / stats.documents,
                "tokens/document": stats.tokens / stats.documents,
            },
        )
    ]


def strata(opened: OpenCollection) -> dict[str, list[str]]:
    """Return the ids of the queries in each third by their own length, and by their relevant documents' mean length.

    Lengths are in tokens.
    """
    embeddings, qrels = opened.embeddings, opened.topics.qrels
    query_length = dict(zip(embeddings.queries.ids, embeddings.queries.lengths.tolist(), strict=True))
    length = dict(zip(embeddings.documents.ids, embeddings.documents.lengths.tolist(), strict=True))
    relevant_length = {}
    for query, grades in qrels.items():
        lengths = [length[id_] for id_, grade in grades.items() if grade > 0 and id_ in length]
        if lengths:
            relevant_length[query] = sum(lengths) / len(lengths)
    return _thirds("queries", query_length) | _thirds("documents", relevant_length)


def _thirds(what: str, lengths: dict[str, float]) -> dict[str, list[str]]:
    """Cut queries into thirds by a length; ties by id."""
    order = sorted(lengths, key=lambda id_: (lengths[id_], id_))
    names: Sequence[str] = ("short", "medium", "long")
    return {
        f"{name} {what}": order[third * len(order) // 3 : (third + 1) * len(order) // 3]
        for third, name in enumerate(names)
    }
