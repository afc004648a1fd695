"""Token pooling: merges similar tokens of a document (Clavié et al. 2024, arXiv 2409.14683)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError


def token_pooling(pool_factor: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]] | None:
    """Return a function that pools a document's tokens [T, D] to about T / pool_factor; None for a factor of 1.

    Pooling is sentence-transformers' hierarchical pooling with its defaults: Ward clustering on cosine distance, an
    unpooled first token, normalised output. Apart from scoring on a device, only this part of the index imports torch.

    Raises:
        InputError: a factor below 1.
    """
    if not pool_factor >= 1:
        raise InputError(f"pool_factor is {pool_factor}; expected 1 (no pooling) or more")
    if pool_factor == 1:
        return None
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
    from torch import from_numpy

    pooling = HierarchicalTokenPooling(pool_factor)

    def pool(tokens_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        pooled: NDArray[np.float32] = pooling.pool_one(from_numpy(tokens_TD.copy())).numpy()
        return np.ascontiguousarray(pooled, dtype=np.float32)

    return pool
