"""Token pooling: fewer tokens a document, those that say the same merged (Clavié et al. 2024, arXiv 2409.14683)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError


def token_pooling(pool_factor: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]] | None:
    """A function that pools a document's tokens [n, dim] to about n / pool_factor; None for a factor of 1.

    It is sentence-transformers' hierarchical pooling, with its defaults: Ward clustering on cosine distance, the first
    token left as it is, tokens normalised. This is the only part of the index that imports torch.
    """
    if not pool_factor >= 1:
        raise InputError(f"pool_factor is {pool_factor}; expected 1 (every token is kept) or more")
    if pool_factor == 1:
        return None
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
    from torch import from_numpy

    pooling = HierarchicalTokenPooling(pool_factor)

    def pool(tokens_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        pooled: NDArray[np.float32] = pooling.pool_one(from_numpy(tokens_TD.copy())).numpy()
        return np.ascontiguousarray(pooled, dtype=np.float32)

    return pool
