"""Search over opened partitions: probe, estimate, score exactly, merge (docs/search.md).

1. q . C for every query token and centroid, once, whatever the number of partitions;
2. each query token visits its `n_probe` nearest centroids' lists, which gives every document an estimate;
3. the `n_rescore` documents with the best estimates are scored exactly over all their tokens;
4. the best k are returned, equal scores in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.index.codebook import Codebook
from raycol.index.kernels.candidates import estimate_documents
from raycol.index.kernels.maxsim import score_documents
from raycol.index.partition import Partition

N_PROBE = 16
N_RESCORE = 64


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found, and its MaxSim score over the stored embeddings."""

    id: str
    score: float


@dataclass(frozen=True)
class _Query:
    """A query's tables, shared by all partitions: see `kernels.maxsim` for the shapes."""

    centroid_scores_KQ: NDArray[np.float32]
    constants_Q: NDArray[np.float32]
    weights_QD: NDArray[np.float32]

    @classmethod
    def prepare(cls, query_QD: NDArray[np.float32], codebook: Codebook) -> _Query:
        return cls(codebook.centroids_KD @ query_QD.T, query_QD @ codebook.lows_D, query_QD * codebook.steps_D)


def search(
    query_QD: NDArray[np.float32],
    codebook: Codebook,
    partitions: Sequence[Partition],
    allowed: Sequence[NDArray[np.bool_]],
    *,
    k: int,
    n_probe: int,
    n_rescore: int,
) -> list[Hit]:
    """The best `k` documents for one query among those allowed, approximately."""
    n_allowed = sum(int(allowed_N.sum()) for allowed_N in allowed)
    wanted = max(n_rescore, k)
    if n_probe >= codebook.n_centroids or n_allowed <= wanted:
        return search_exact(query_QD, codebook, partitions, allowed, k=k)
    query = _Query.prepare(query_QD, codebook)
    probes_QP, floors_Q = _nearest_centroids(query.centroid_scores_KQ, n_probe)
    estimates = [
        estimate_documents(
            probes_QP, floors_Q, query.centroid_scores_KQ, query.constants_Q, query.weights_QD, allowed_N,
            partition.offsets_N, partition.residuals_TB, partition.gains_T, partition.scales_T.view(np.uint16),
            partition.list_offsets_K, partition.list_tokens_T, codebook.bits,
        )
        for partition, allowed_N in zip(partitions, allowed, strict=True)
    ]  # fmt: skip
    candidates = [np.flatnonzero(allowed_N) for allowed_N in allowed]
    scores = np.concatenate([estimate[found] for estimate, found in zip(estimates, candidates, strict=True)])
    chosen = _best_positions(scores, wanted)
    starts = np.cumsum([0, *map(len, candidates)])
    per_partition = [
        found[chosen[(chosen >= start) & (chosen < stop)] - start]
        for found, (start, stop) in zip(candidates, pairwise(starts), strict=True)
    ]
    return _score(query, codebook, partitions, per_partition, k)


def search_exact(
    query_QD: NDArray[np.float32],
    codebook: Codebook,
    partitions: Sequence[Partition],
    allowed: Sequence[NDArray[np.bool_]],
    *,
    k: int,
) -> list[Hit]:
    """The best `k` documents for one query among those allowed, every token of theirs scored."""
    query = _Query.prepare(query_QD, codebook)
    return _score(query, codebook, partitions, [np.flatnonzero(allowed_N) for allowed_N in allowed], k)


class _Scored(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def merge_hits(parts: Iterable[Iterable[S]], k: int) -> list[S]:
    """The best `k` of several lists of hits: highest score first, equal scores by id."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: (-hit.score, hit.id))[:k]


def _score(
    query: _Query,
    codebook: Codebook,
    partitions: Sequence[Partition],
    documents: Sequence[NDArray[np.int64]],
    k: int,
) -> list[Hit]:
    parts = []
    for partition, documents_M in zip(partitions, documents, strict=True):
        scores_M = score_documents(
            documents_M, query.centroid_scores_KQ, query.constants_Q, query.weights_QD,
            partition.offsets_N, partition.codes_T, partition.residuals_TB, partition.gains_T,
            partition.scales_T.view(np.uint16), codebook.bits,
        )  # fmt: skip
        best_M = _best_positions(scores_M, k, ties=True)
        parts.append([Hit(partition.ids[documents_M[m]], float(scores_M[m])) for m in best_M])
    return merge_hits(parts, k)


def _nearest_centroids(
    centroid_scores_KQ: NDArray[np.float32], n_probe: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each query token's `n_probe` nearest centroids, of more, and the score of the nearest one after those."""
    scores_QK = centroid_scores_KQ.T
    order_QP = np.argpartition(-scores_QK, n_probe, axis=1)[:, : n_probe + 1]
    floors_Q = np.take_along_axis(scores_QK, order_QP[:, n_probe:], axis=1)[:, 0]
    return np.ascontiguousarray(order_QP[:, :n_probe]), np.ascontiguousarray(floors_Q)


def _best_positions(scores_N: NDArray[np.float32], n: int, *, ties: bool = False) -> NDArray[np.int64]:
    """Positions of the `n` largest scores, ascending; of equals at the edge, the first, or with `ties` all of them."""
    if n >= len(scores_N):
        return np.arange(len(scores_N))
    edge = np.partition(scores_N, -n)[-n]
    if ties:
        return np.flatnonzero(scores_N >= edge)
    above = np.flatnonzero(scores_N > edge)
    at_edge = np.flatnonzero(scores_N == edge)[: n - len(above)]
    return np.sort(np.concatenate([above, at_edge]))
