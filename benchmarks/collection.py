"""A benchmark collection: embeddings of documents and queries, exact MaxSim over them, and recall against it.

Shapes: T tokens, D dimensions, N documents, M queries, P tokens of all queries together, k results a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from raycol.index import Document

# Similarities of one block, small enough to stay in the CPU cache between the product and the maximum.
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Collection:
    """Embeddings: tokens_TD and queries float32, lengths_N int64. Document ids are their positions."""

    tokens_TD: NDArray[np.float32]
    lengths_N: NDArray[np.int64]
    queries: list[NDArray[np.float32]]

    def documents(self, stop: int | None = None) -> Iterator[Document]:
        """The documents in order; their ids are their positions."""
        ends_N = np.cumsum(self.lengths_N)
        for position, (length, end) in enumerate(zip(self.lengths_N[:stop], ends_N[:stop], strict=True)):
            yield Document(str(position), self.tokens_TD[end - length : end])

    def save(self, folder: Path) -> None:
        """Write tokens.npy, lengths.npy, queries.npy and query_lengths.npy."""
        np.save(folder / "tokens.npy", self.tokens_TD)
        np.save(folder / "lengths.npy", self.lengths_N)
        np.save(folder / "queries.npy", np.concatenate(self.queries))
        np.save(folder / "query_lengths.npy", np.array([len(query_QD) for query_QD in self.queries]))

    @classmethod
    def load(cls, folder: Path) -> Collection:
        """Read what `save` wrote, into memory."""
        ends_M = np.cumsum(np.load(folder / "query_lengths.npy"))
        queries = np.split(np.load(folder / "queries.npy"), ends_M[:-1])
        return cls(np.load(folder / "tokens.npy"), np.load(folder / "lengths.npy"), queries)

    def maxsim(self) -> NDArray[np.float32]:
        """MaxSim of every query with every document in full precision, float32 [M, N]."""
        query_tokens_PD = np.concatenate(self.queries)
        query_ends_M = np.cumsum([len(query_QD) for query_QD in self.queries])
        ends_N = np.cumsum(self.lengths_N)
        scores_NM = np.empty((len(self.lengths_N), len(self.queries)), dtype=np.float32)
        block = max(1, _BLOCK_VALUES // len(query_tokens_PD))
        start = first = 0
        while start < len(ends_N):
            stop = max(start + 1, int(np.searchsorted(ends_N, first + block, side="right")))
            last = int(ends_N[stop - 1])
            similarity_TP = self.tokens_TD[first:last] @ query_tokens_PD.T
            _sum_of_maxima(similarity_TP, ends_N[start:stop] - first, query_ends_M, scores_NM[start:stop])
            start, first = stop, last
        return np.ascontiguousarray(scores_NM.T)


@numba.njit(nogil=True, fastmath={"nnan", "nsz", "reassoc"}, cache=True)
def _sum_of_maxima(similarity_TP, ends_N, query_ends_M, scores_NM):  # type: ignore[no-untyped-def]
    """MaxSim of a block's documents, from the similarity of each of their tokens with each query token."""
    best_P = np.empty(similarity_TP.shape[1], dtype=np.float32)
    token = 0
    for n in range(len(ends_N)):
        best_P[:] = similarity_TP[token]
        for t in range(token + 1, ends_N[n]):
            for p in range(len(best_P)):
                best_P[p] = max(best_P[p], similarity_TP[t, p])
        token = ends_N[n]
        start = 0
        for m in range(len(query_ends_M)):
            scores_NM[n, m] = best_P[start : query_ends_M[m]].sum()
            start = query_ends_M[m]


@dataclass(frozen=True)
class Found:
    """Search results, best first: positions int64 (-1 pads short results) and scores float32, [M, k]."""

    positions_MK: NDArray[np.int64]
    scores_MK: NDArray[np.float32]

    def recall(self, truth_MN: NDArray[np.float32], k: int = 10) -> float:
        """Return recall@k against exact MaxSim, over the queries with results.

        A returned document is correct if its exact score is no lower than the k-th best.
        """
        truth_MN = truth_MN[: len(self.positions_MK)]
        edges_M = np.partition(truth_MN, -k, axis=1)[:, -k]
        found_MK = self.positions_MK[:, :k]
        right_MK = np.take_along_axis(truth_MN, np.maximum(found_MK, 0), axis=1) >= edges_M[:, None]
        return float((right_MK & (found_MK >= 0)).sum() / (len(found_MK) * k))


def best_of(scores_MN: NDArray[np.float32], k: int) -> Found:
    """The best `k` by known scores."""
    positions_MK = np.argsort(-scores_MN, axis=1, kind="stable")[:, :k]
    return Found(positions_MK, np.take_along_axis(scores_MN, positions_MK, axis=1))
