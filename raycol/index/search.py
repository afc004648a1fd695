"""Search over opened partitions (docs/search.md).

1. the scores of all centroids, in bytes, once, whatever the number of partitions;
2. each query token visits its `n_probe` nearest centroids' lists, which gives every document an estimate;
3. the documents with the best estimates are scored as if each token were its centroid;
4. the `n_rescore` best of them are scored exactly over all their tokens;
5. the best k are returned, equal scores in the order of their ids.

Whatever decides between documents before 4 is an integer sum, so hits do not depend on threads or processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.index.codebook import Codebook
from raycol.index.effort import SearchSettings
from raycol.index.kernels.candidates import best_estimates, score_by_centroids, visit_lists
from raycol.index.kernels.centroids import above_next, nearest_lists, query_bytes, score_bytes, score_centroids
from raycol.index.kernels.maxsim import score_documents
from raycol.index.kernels.vectors import LANES
from raycol.index.partition import Partition
from raycol.index.query import Query
from raycol.index.scope import Scope

# Documents that 3 scores, for each that 4 does.
_CANDIDATES_PER_RESCORED = 8

# Nanoseconds, about, on one thread (docs/search.md): a centroid, a list's entry, a document's token by its centroid,
# and a token exactly; all but the entry for LANES query tokens at a time.
_CENTROID_NS = 40.0
_ENTRY_NS = 4.0
_CENTROID_TOKEN_NS = 4.0
_EXACT_TOKEN_NS = 150.0


# Scores documents of a partition, given by their positions, exactly: float32 [M].
Scorer = Callable[[Query, Partition, NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found, and its MaxSim score over the stored embeddings."""

    id: str
    score: float


def cpu_scorer(codebook: Codebook) -> Scorer:
    """The kernel of this package, on the thread that calls it."""

    def score(query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_M: NDArray[np.float32] = score_documents(
            documents_M, query.floats_BDL, query.n_tokens, codebook.centroids_KD, codebook.lows_D, codebook.steps_D,
            partition.offsets_N, partition.codes_T, partition.residuals_TB, partition.gains_T,
            partition.scales_T.view(np.uint16), codebook.bits,
        )  # fmt: skip
        return scores_M

    return score


def search(
    query_QD: NDArray[np.float32], codebook: Codebook, scope: Scope, *, k: int, settings: SearchSettings, score: Scorer
) -> list[Hit]:
    """The best `k` documents for one query among those of the scope, approximately."""
    n_rescore = max(settings.n_rescore, k)
    query = Query.prepare(query_QD)
    if scope.n_allowed <= n_rescore:
        return _best_hits(query, scope, scope.numbers, k, score)
    n_candidates = _CANDIDATES_PER_RESCORED * n_rescore
    # Where a filter leaves a share of the documents, as many of these are met in so many times the lists.
    n_probe = min(codebook.n_centroids, settings.n_probe * scope.n_documents // scope.n_allowed)
    entries = query.n_tokens * n_probe * scope.n_tokens / codebook.n_centroids
    tokens = scope.n_tokens * scope.n_allowed / scope.n_documents
    by_lists = (
        scope.n_allowed > n_candidates and _ENTRY_NS * entries < _CENTROID_TOKEN_NS * len(query.floats_BDL) * tokens
    )
    tables_BRL, state_N = _score_centroids(query, codebook, scope, n_probe if by_lists else 0)
    if by_lists:
        candidates_M = best_estimates(state_N, scope.allowed_N, n_candidates, 255 * query.n_tokens)
    else:
        candidates_M = scope.numbers
    scores_M = np.concatenate(
        [
            score_by_centroids(documents, tables_BRL, partition.offsets_N, partition.codes_T)
            for partition, documents in scope.split(candidates_M)
        ]
    )
    return _best_hits(query, scope, candidates_M[_best_positions(scores_M, n_rescore)], k, score)


def search_exact(query_QD: NDArray[np.float32], scope: Scope, *, k: int, score: Scorer) -> list[Hit]:
    """The best `k` documents of the scope, every token of theirs scored."""
    return _best_hits(Query.prepare(query_QD), scope, scope.numbers, k, score)


def _score_centroids(
    query: Query, codebook: Codebook, scope: Scope, n_probe: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The centroids' scores in bytes, and every document's state after `n_probe` lists of each query token."""
    rows_RD = codebook.centroid_bytes.rows_RD
    tables_BRL = np.empty((len(query.floats_BDL), len(rows_RD), LANES), dtype=np.uint8)
    state_N = np.zeros(scope.n_documents, dtype=np.uint32)
    # One more than is visited: the bytes count from there.
    n_nearest = min(n_probe + 1, codebook.n_centroids)
    for number, bytes_RL in enumerate(tables_BRL):
        weights_DL4, offsets_L, shift, units_L = query_bytes(
            query.floats_BDL[number], codebook.centroid_bytes.sizes_D, query.longest
        )
        scores_RL, tops_GL = score_centroids(rows_RD, weights_DL4, offsets_L, shift)
        score_bytes(scores_RL, tops_GL, units_L, bytes_RL)
        if n_probe:
            n_lanes = min(LANES, query.n_tokens - LANES * number)
            probes_LP = nearest_lists(scores_RL, tops_GL, n_lanes, codebook.n_centroids, n_nearest)
            above_LP = above_next(bytes_RL, probes_LP, n_nearest > n_probe)
            for p, partition in enumerate(scope.partitions):
                visit_lists(
                    probes_LP, above_LP, LANES * number, partition.list_offsets_K, partition.list_documents_T,
                    state_N[scope.starts[p] : scope.starts[p + 1]],
                )  # fmt: skip
    return tables_BRL, state_N


def cost_ns(
    settings: SearchSettings, *, n_centroids: int, n_tokens: int, n_documents: int, query_tokens: float
) -> float:
    """About what a search without a filter costs one thread, in nanoseconds."""
    blocks = math.ceil(query_tokens / LANES)
    entries = query_tokens * settings.n_probe * n_tokens / n_centroids
    rescored = min(settings.n_rescore, n_documents) * n_tokens / n_documents
    candidates = min(_CANDIDATES_PER_RESCORED * settings.n_rescore, n_documents) * n_tokens / n_documents
    per_block = _CENTROID_NS * n_centroids + _CENTROID_TOKEN_NS * candidates + _EXACT_TOKEN_NS * rescored
    return blocks * per_block + _ENTRY_NS * entries


class _Scored(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def merge_hits(parts: Iterable[Iterable[S]], k: int) -> list[S]:
    """The best `k` of several lists of hits: highest score first, equal scores by id."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: (-hit.score, hit.id))[:k]


def _best_hits(query: Query, scope: Scope, numbers_M: NDArray[np.int64], k: int, score: Scorer) -> list[Hit]:
    if not len(numbers_M):
        return []
    scores_M = np.concatenate([score(query, partition, documents) for partition, documents in scope.split(numbers_M)])
    best = _best_positions(scores_M, k, ties=True)
    hits = map(Hit, scope.ids(numbers_M[best]), scores_M[best].tolist())
    return merge_hits([hits], k)


def _best_positions(scores_N: NDArray[Any], n: int, *, ties: bool = False) -> NDArray[np.int64]:
    """Positions of the `n` largest scores, ascending; of equals at the edge, the first, or with `ties` all of them."""
    if n >= len(scores_N):
        return np.arange(len(scores_N))
    edge = np.partition(scores_N, -n)[-n]
    if ties:
        return np.flatnonzero(scores_N >= edge)
    above = np.flatnonzero(scores_N > edge)
    at_edge = np.flatnonzero(scores_N == edge)[: n - len(above)]
    return np.sort(np.concatenate([above, at_edge]))
