"""The true answers: the best documents by MaxSim over the original embeddings, found while these are there.

Shapes: M queries, N documents of a batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from collection import Collection
from numpy.typing import NDArray

K = 10
_BATCH_TOKENS = 32768

Best = list[list[tuple[float, str]]]


class Truth:
    """The best `K` documents of those added, for each query."""

    def __init__(self, queries: Sequence[NDArray[np.float32]]) -> None:
        self._queries = list(queries)
        self._best: Best = [[] for _ in queries]
        self._ids: list[str] = []
        self._tokens: list[NDArray[np.float32]] = []
        self._n_tokens = 0

    def add(self, id_: str, tokens_TD: NDArray[np.float32]) -> None:
        """Take one more document."""
        self._ids.append(id_)
        self._tokens.append(tokens_TD)
        self._n_tokens += len(tokens_TD)
        if self._n_tokens >= _BATCH_TOKENS:
            self._score()

    def best(self) -> Best:
        """Scores and ids for each query, best first."""
        if self._ids:
            self._score()
        return self._best

    def _score(self) -> None:
        if self._queries:
            lengths_N = np.array([len(tokens_TD) for tokens_TD in self._tokens])
            scores_MN = Collection(np.concatenate(self._tokens), lengths_N, self._queries).maxsim()
            self._best = [
                _first([*known, *_top(scores_N, self._ids)])
                for known, scores_N in zip(self._best, scores_MN, strict=True)
            ]
        self._ids.clear()
        self._tokens.clear()
        self._n_tokens = 0


def merge_best(parts: Iterable[Best]) -> list[list[str]]:
    """Ids of the best of all parts, for each query."""
    return [[id_ for _, id_ in _first([hit for best in bests for hit in best])] for bests in zip(*parts, strict=True)]


def recall(found: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """The share of the true ids that was found, over the queries whose truth is known."""
    pairs = list(zip(found, true, strict=False))
    return sum(len(set(ids) & set(right)) for ids, right in pairs) / sum(len(right) for _, right in pairs)


def _top(scores_N: NDArray[np.float32], ids: Sequence[str]) -> list[tuple[float, str]]:
    places = np.argsort(-scores_N, kind="stable")[:K]
    return [(float(scores_N[place]), ids[place]) for place in places.tolist()]


def _first(hits: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(score, id_) for score, id_ in heapq.nsmallest(K, hits, key=lambda hit: (-hit[0], hit[1]))]
