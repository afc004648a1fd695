"""Spherical k-means by faiss (Douze et al. 2024, arXiv 2401.08281)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clusters(
    unit_TD: NDArray[np.float32], k: int, seed: int, *, iterations: int, max_points: int
) -> NDArray[np.float32]:
    """Return `k` unit-norm centroids, float32 [k, D].

    Args:
        unit_TD: vectors, of norm 1 for spherical clusters; at least `k`.
        k: number of centroids.
        seed: seeds the first centroids, and the choice of vectors if there are more than `max_points` per centroid.
        iterations: Lloyd iterations.
        max_points: the most vectors per centroid to train on.
    """
    import faiss

    kmeans = faiss.Kmeans(
        unit_TD.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=max_points,
    )
    kmeans.train(unit_TD)
    centroids_KD: NDArray[np.float32] = np.asarray(kmeans.centroids, dtype=np.float32)
    return centroids_KD
