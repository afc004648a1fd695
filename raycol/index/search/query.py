"""A query in the layouts that the kernels read, and its probes.

Shapes: Q query tokens, B blocks of L = LANES query tokens, D dimensions, P probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.vectors import LANES


class Probes(NamedTuple):
    """The nearest centroids of each query token, and the origins of the byte scores of all centroids.

    Args:
        centroids: for each block, the nearest centroids of its tokens, best first, int32 [tokens, P]. Searches do not
            visit the last one, unless these are all centroids of the codebook.
        above: for each block, the byte scores of these centroids, less that of the unvisited one, uint8 [tokens, P].
        best_BL: the best integer score of each query token, float32 [B, L].
        units_BL: bytes per unit of the integer scores, float32 [B, L].
    """

    centroids: list[NDArray[np.int32]]
    above: list[NDArray[np.uint8]]
    best_BL: NDArray[np.float32]
    units_BL: NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """Query tokens, the same tokens in blocks padded with zeros, and the largest Euclidean norm of a token.

    `probes` are set if another process has found them.
    """

    tokens_QD: NDArray[np.float32]
    floats_BDL: NDArray[np.float32]
    max_norm: float
    probes: Probes | None = None

    @property
    def n_tokens(self) -> int:
        """Q."""
        return len(self.tokens_QD)

    @classmethod
    def prepare(cls, query_QD: NDArray[np.float32], probes: Probes | None = None) -> Query:
        """Lay out a query, float32 [Q, D], in blocks."""
        n_tokens, dim = query_QD.shape
        padded = np.zeros((math.ceil(n_tokens / LANES), LANES, dim), dtype=np.float32)
        padded.reshape(-1, dim)[:n_tokens] = query_QD
        max_norm = math.sqrt(np.square(query_QD, dtype=np.float64).sum(axis=1).max())  # float32 would underflow
        return cls(query_QD, np.ascontiguousarray(padded.transpose(0, 2, 1)), max_norm, probes)
