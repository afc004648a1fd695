"""Nearest-centroid search, which takes nearly all of a build's time.

Below `FEW_CENTROIDS` the search is exhaustive. Above, a faiss IVF over the centroids probes an eighth of its cells (at
least 16), compares 4-bit product codes (PQ fast scan; André et al. 2017, arXiv 1704.07355; Douze et al. 2024, arXiv
2401.08281) and rescores the best 16 exactly. It finds the nearest centroid of 97 % of tokens, and a nearly equal one
for the rest, at a fifth of the cost (`benchmarks/index.py assign`).

In both cases the result of a token does not depend on the rest of the batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.quantise import nearest_centroids

FEW_CENTROIDS = 1024

_MIN_PROBES = 16
_CELLS_PER_PROBE = 8
_N_RESCORE = 16


class NearestCentroid:
    """Finds the centroid of largest dot product with a token; centroids are unit-norm float32 [K, D]."""

    def __init__(self, centroids_KD: NDArray[np.float32]) -> None:
        self._centroids_KD = centroids_KD
        self._index = _build(centroids_KD) if len(centroids_KD) >= FEW_CENTROIDS else None

    def __call__(self, tokens_TD: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Return the code of each token's nearest centroid, uint32 [T]."""
        if self._index is None:
            return np.asarray(nearest_centroids(tokens_TD, self._centroids_KD))
        # The IVF ranks by L2 distance, which among unit vectors is the order of dot products.
        norms_T = np.sqrt(np.einsum("td,td->t", tokens_TD, tokens_TD))
        unit_TD = tokens_TD / np.maximum(norms_T, np.float32(1e-12))[:, None]
        _, codes_T1 = self._index.search(unit_TD, 1)
        return np.asarray(np.maximum(codes_T1[:, 0], 0), dtype=np.uint32)


def _build(centroids_KD: NDArray[np.float32]) -> Any:
    import faiss

    dim = centroids_KD.shape[1]
    n_cells = 1 << round(math.log2(math.sqrt(len(centroids_KD))))
    index: Any = faiss.index_factory(dim, f"IVF{n_cells},PQ{dim // 4}x4fs,RFlat", faiss.METRIC_L2)
    index.k_factor = _N_RESCORE
    ivf = faiss.extract_index_ivf(index)
    ivf.nprobe = max(_MIN_PROBES, n_cells // _CELLS_PER_PROBE)
    ivf.cp.min_points_per_centroid = 1
    index.train(centroids_KD)
    index.add(centroids_KD)
    return index
