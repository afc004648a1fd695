"""The best hits of each query over a corpus that is scored batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

Hits = list[tuple[str, float]]
"""Ids and scores, best first, ties by id."""


class TopHits:
    """The best `depth` documents of each query, ties by id: the same however the corpus is cut into batches.

    Args:
        n_queries: number of queries.
        depth: hits to keep for each.
    """

    def __init__(self, n_queries: int, depth: int) -> None:
        self._depth = depth
        self._hits: list[list[tuple[float, str]]] = [[] for _ in range(n_queries)]
        # The lowest score that can still be a hit.
        self._floor_Q = np.full(n_queries, -np.inf, np.float32)

    def add(self, ids: Sequence[str], scores_QN: NDArray[np.float32]) -> None:
        """Add a batch: the documents' ids, and the score of every query for each of them.

        Raises:
            InputError: a score is not a number.
        """
        if np.isnan(scores_QN).any():
            _, column = np.argwhere(np.isnan(scores_QN))[0]
            raise InputError(f"document {ids[column]!r} has a score that is not a number; is the model broken?")
        rows, columns = np.nonzero(scores_QN >= self._floor_Q[:, None])
        scores = scores_QN[rows, columns].tolist()
        for row, column, score in zip(rows.tolist(), columns.tolist(), scores, strict=True):
            self._hits[row].append((-score, ids[column]))
        for row in np.unique(rows).tolist():
            if len(self._hits[row]) >= 2 * self._depth:
                self._trim(row)

    def merge(self, rows: Sequence[int], ids: Sequence[str], scores: Sequence[float]) -> None:
        """Add hits of another `TopHits`, each with the position of its query."""
        for row, id_, score in zip(rows, ids, scores, strict=True):
            self._hits[row].append((-score, id_))
        for row in set(rows):
            self._trim(row)

    def result(self) -> list[Hits]:
        """Return the hits of each query."""
        for row in range(len(self._hits)):
            self._trim(row)
        return [[(id_, -score) for score, id_ in hits] for hits in self._hits]

    def _trim(self, row: int) -> None:
        hits = self._hits[row]
        hits.sort()
        del hits[self._depth :]
        if len(hits) == self._depth:
            self._floor_Q[row] = -hits[-1][0]
