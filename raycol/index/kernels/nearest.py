"""Exhaustive nearest-centroid search, token by token, so that results do not depend on the batch.

Shapes: T tokens, K centroids, D dimensions.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.maxsim import FASTMATH


@kernel(fastmath=FASTMATH)
def nearest_centroids(tokens_TD, centroids_KD):  # type: ignore[no-untyped-def]
    """Return the code of the centroid with the largest dot product for each token, uint32 [T]; ties by code."""
    n_tokens, dim = tokens_TD.shape
    codes_T = np.empty(n_tokens, dtype=np.uint32)
    for t in range(n_tokens):
        best = np.float32(-np.inf)
        codes_T[t] = 0
        for k in range(len(centroids_KD)):
            product = np.float32(0)
            for d in range(dim):
                product += tokens_TD[t, d] * centroids_KD[k, d]
            if product > best:
                best = product
                codes_T[t] = k
    return codes_T
