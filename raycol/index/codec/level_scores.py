"""Scores of one query with the documents of several partitions, nearly exact, from the levels of their residuals.

A decoded token is scale * (c + gain * (low + step * u)), so its score with a query token q is

    scale * (q.c + gain * (q.low + (q * step).u)).

q.c is computed once for all tokens of a centroid, from 16-bit integers, and q * step is rounded to signed bytes, so
that a token takes one product of small integers. The rounding adds about a tenth of the error that the codec itself
makes (docs/search.md), so the documents that these scores rank first are scored exactly afterwards.

Shapes: K centroids, B blocks of L = LANES query tokens, D dimensions, M documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.maxsim import level_weights, rescore_documents
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES

if TYPE_CHECKING:
    from raycol.index.codec.codebook import Codebook

# Levels are multiplied in groups of four dimensions, and as many as fit a 16-bit sum (`vectors.score_levels`).
_MAX_BITS = 4
_GROUP = 4
# Longer queries are scored exactly: they would keep a row of blocks for every centroid in memory.
_MAX_BLOCKS = 4


class LevelScores:
    """Scores of one query; keeps the products of centroids between calls. Use from one thread.

    Arguments are those of `Codec.near_scores`.
    """

    def __init__(
        self,
        codebook: Codebook,
        query_BDL: NDArray[np.float32],
        n_query: int,
        starts: NDArray[np.int64],
        addresses: NDArray[np.int64],
        scratch: Scratch,
    ) -> None:
        self._bits = codebook.bits
        self._n_query, self._starts, self._addresses = n_query, starts, addresses
        self._code_bytes = np.dtype(codebook.code_dtype).itemsize
        self._centroids_KD, centroid_unit = codebook.centroid_shorts
        self._weights = level_weights(query_BDL, codebook.lows_D, codebook.steps_D, centroid_unit)
        n_centroids = codebook.n_centroids
        self._slots_K = scratch.array("slots", (n_centroids,), np.int32)
        self._slots_K[:] = -1
        # Only the first rows are written: no memory is taken for the others.
        self._products_KBL = scratch.array("products", (n_centroids, len(query_BDL), LANES), np.float32)
        self._codes_K = scratch.array("codes", (n_centroids,), np.int32)
        self._n_used = 0

    @staticmethod
    def supports(codebook: Codebook, query_BDL: NDArray[np.float32]) -> bool:
        """Whether the levels of the codebook, and a query of this length, can be scored in this way."""
        width = codebook.dim * codebook.bits // 8
        return codebook.bits <= _MAX_BITS and width % _GROUP == 0 and len(query_BDL) <= _MAX_BLOCKS

    def __call__(self, ordinals_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of documents by their ascending ordinals, float32 [M]."""
        scores_M, self._n_used = rescore_documents(
            ordinals_M, self._n_query, *self._weights, self._centroids_KD, self._slots_K, self._products_KBL,
            self._codes_K, self._n_used, self._starts, self._addresses, self._code_bytes, self._bits,
        )  # fmt: skip
        return np.asarray(scores_M)
