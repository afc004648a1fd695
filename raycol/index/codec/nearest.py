"""Which centroid each token belongs to: what nearly all of a build's time goes into.

Few centroids are all compared. Among many, faiss looks in an eighth of the cells of an IVF over the centroids (16 at
least), compares 4-bit product codes there (PQ fast scan; André et al. 2017, arXiv 1704.07355; Douze et al. 2024, arXiv
2401.08281), and the best 16 exactly. That finds the nearest centroid of 97 tokens in 100, and one about as near for
the others, at a fifth of the cost (`benchmarks/index.py assign`).

Either way the outcome for a token does not depend on the tokens beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.nearest import nearest_centroids

FEW_CENTROIDS = 1024

_PROBED = 16
_PROBED_SHARE = 8
_REFINED = 16


class NearestCentroid:
    """The nearest centroid of tokens by dot product; centroids are float32 [K, D] of unit length."""

    def __init__(self, centroids_KD: NDArray[np.float32]) -> None:
        self._centroids_KD = centroids_KD
        self._index = _build(centroids_KD) if len(centroids_KD) >= FEW_CENTROIDS else None

    def __call__(self, tokens_TD: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The number of each token's centroid, uint32 [T]."""
        if self._index is None:
            return np.asarray(nearest_centroids(tokens_TD, self._centroids_KD))
        # By distance, which for centroids of one length is by dot product if the token has that length too.
        lengths_T = np.sqrt(np.einsum("td,td->t", tokens_TD, tokens_TD))
        directions_TD = tokens_TD / np.maximum(lengths_T, np.float32(1e-12))[:, None]
        _, found_T1 = self._index.search(directions_TD, 1)
        return np.asarray(np.maximum(found_T1[:, 0], 0), dtype=np.uint32)


def _build(centroids_KD: NDArray[np.float32]) -> Any:
    import faiss

    dim = centroids_KD.shape[1]
    n_cells = 1 << round(math.log2(math.sqrt(len(centroids_KD))))
    index: Any = faiss.index_factory(dim, f"IVF{n_cells},PQ{dim // 4}x4fs,RFlat", faiss.METRIC_L2)
    index.k_factor = _REFINED
    cells = faiss.extract_index_ivf(index)
    cells.nprobe = max(_PROBED, n_cells // _PROBED_SHARE)
    cells.cp.min_points_per_centroid = 1
    index.train(centroids_KD)
    index.add(centroids_KD)
    return index
