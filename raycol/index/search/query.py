"""A query in the layouts that the kernels read.

Shapes: Q query tokens, B blocks of L = LANES query tokens, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.vectors import LANES


@dataclass(frozen=True)
class Query:
    """Query tokens, the same tokens in blocks padded with zeros, and the largest Euclidean norm of a token."""

    tokens_QD: NDArray[np.float32]
    floats_BDL: NDArray[np.float32]
    max_norm: float

    @property
    def n_tokens(self) -> int:
        """Q."""
        return len(self.tokens_QD)

    @classmethod
    def prepare(cls, query_QD: NDArray[np.float32]) -> Query:
        """Lay out a query, float32 [Q, D], in blocks."""
        n_tokens, dim = query_QD.shape
        padded = np.zeros((math.ceil(n_tokens / LANES), LANES, dim), dtype=np.float32)
        padded.reshape(-1, dim)[:n_tokens] = query_QD
        max_norm = math.sqrt(np.square(query_QD, dtype=np.float64).sum(axis=1).max())  # float32 would underflow
        return cls(query_QD, np.ascontiguousarray(padded.transpose(0, 2, 1)), max_norm)
