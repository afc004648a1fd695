"""The queries for which a system differs most from the baseline, with what both found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np

from raycol.data.collection import Collection
from raycol.evaluation.comparison import largest_differences
from raycol.evaluation.result import JudgedHit, QueryDifference, SystemResult
from raycol.evaluation.top_hits import Hits
from raycol.evaluation.trec import ranking

N_QUERIES = 10
"""Queries of a system on a collection."""
_N_HITS = 3
# Relevant documents that are listed; some queries have hundreds.
_N_RELEVANT = 10


def best_hits(collection: Collection, hits: Sequence[Hits]) -> dict[str, Hits]:
    """Return the best 3 hits of each query, in the order in which metrics see them.

    Args:
        collection: the collection.
        hits: of each query, in its order, by descending score.
    """
    return {query_id: _best(found) for query_id, found in zip(collection.queries, hits, strict=True)}


def _best(hits: Hits) -> Hits:
    if not hits:
        return []
    lowest = np.float32(hits[:_N_HITS][-1][1])
    tied = dict(takewhile(lambda hit: np.float32(hit[1]) >= lowest, hits))
    return [(id_, tied[id_]) for id_ in ranking(tied)[:_N_HITS]]


def query_differences(
    collection: Collection, results: Sequence[SystemResult], baseline: str, best: Mapping[str, Mapping[str, Hits]]
) -> list[QueryDifference]:
    """Return, for each system but the baseline, the 10 queries that differ most in the first metric.

    Args:
        collection: the collection.
        results: of every system on it.
        baseline: name of the system that the others are compared with.
        best: hits by system and query; see `best_hits`.
    """
    metric = next(iter(results[0].per_query))
    values = {result.system: result.per_query[metric] for result in results}
    differences = []
    for system in [name for name in values if name != baseline]:
        for query, baseline_value, value in largest_differences(values[baseline], values[system], N_QUERIES):
            grades = collection.qrels[query]
            relevant = sorted((-grade, id_) for id_, grade in grades.items() if grade > 0)
            differences.append(
                QueryDifference(
                    collection.name,
                    system,
                    metric,
                    query,
                    collection.queries[query],
                    baseline_value,
                    value,
                    len(relevant),
                    {id_: -grade for grade, id_ in relevant[:_N_RELEVANT]},
                    *(
                        [JudgedHit(id_, score, grades.get(id_)) for id_, score in best[name][query]]
                        for name in (baseline, system)
                    ),
                )
            )
    return differences
