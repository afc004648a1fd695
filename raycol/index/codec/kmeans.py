"""Spherical k-means for many centroids: two levels of faiss k-means, then one Lloyd iteration over the sample.

Flat k-means costs T * K * D per iteration. The two-level variant splits the sample into about sqrt(K) cells, gives
each cell centroids in proportion to its tokens and runs k-means within the cells; a Lloyd iteration with
`NearestCentroid` then reassigns tokens across cell borders.

Shapes: T tokens, K centroids, G cells, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.clusters import clusters
from raycol.index.codec.nearest import FEW_CENTROIDS, NearestCentroid

_ITERATIONS = 6
_POINTS_PER_CENTROID = 128
_POINTS_PER_CELL = 256
_BLOCK = 65536


def train_centroids(
    sample_TD: NDArray[Any], rows_T: NDArray[np.int64], n_centroids: int, seed: int
) -> NDArray[np.float32]:
    """Return unit-norm centroids, float32 [K, D], rounded to float16 precision.

    Args:
        sample_TD: tokens, float16 or float32; converted to float32 in blocks.
        rows_T: rows of the sample to train on, ascending.
        n_centroids: K, at most the number of rows.
        seed: seeds k-means and the subsampling of rows.
    """
    if n_centroids < FEW_CENTROIDS:
        n_points = n_centroids * _POINTS_PER_CENTROID
        centroids_KD = _kmeans(_take(sample_TD, _subsample(rows_T, n_points, seed)), n_centroids, seed)
        return _rounded(centroids_KD)
    centroids_KD = _two_level_kmeans(sample_TD, rows_T, n_centroids, seed)
    return _rounded(_lloyd(sample_TD, rows_T, _rounded(centroids_KD)))


def n_cells_for(n_centroids: int) -> int:
    """Return the number of cells of the upper level: a power of two near the square root of K."""
    return 1 << round(math.log2(math.sqrt(n_centroids)))


def _two_level_kmeans(
    sample_TD: NDArray[Any], rows_T: NDArray[np.int64], n_centroids: int, seed: int
) -> NDArray[np.float32]:
    n_cells = n_cells_for(n_centroids)
    cells_GD = _kmeans(_take(sample_TD, _subsample(rows_T, n_cells * _POINTS_PER_CELL, seed)), n_cells, seed)
    cell_T = np.empty(len(rows_T), dtype=np.int64)
    for start in range(0, len(rows_T), _BLOCK):
        similarity_TG = _take(sample_TD, rows_T[start : start + _BLOCK]) @ cells_GD.T
        cell_T[start : start + _BLOCK] = similarity_TG.argmax(axis=1)
    order_T = np.argsort(cell_T, kind="stable")
    sizes_G = np.bincount(cell_T, minlength=n_cells)
    ends_G = np.cumsum(sizes_G)
    n_centroids_G = _apportion(n_centroids, sizes_G)
    centroids = [
        _kmeans(_take(sample_TD, np.sort(rows_T[order_T[end - size : end]])), int(k), seed)
        for end, size, k in zip(ends_G, sizes_G, n_centroids_G, strict=True)
        if k
    ]
    return np.concatenate(centroids)


def _apportion(n_centroids: int, sizes_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return centroids per cell, in proportion to its tokens; at least 1 per non-empty cell, at most its tokens."""
    exact_G = n_centroids * sizes_G / sizes_G.sum()
    counts_G = np.clip(np.floor(exact_G).astype(np.int64), np.minimum(1, sizes_G), sizes_G)
    while counts_G.sum() < n_centroids:
        counts_G[np.where(counts_G < sizes_G, exact_G - counts_G, -np.inf).argmax()] += 1
    while counts_G.sum() > n_centroids:
        counts_G[counts_G.argmax()] -= 1
    return np.asarray(counts_G)


def _lloyd(
    sample_TD: NDArray[Any], rows_T: NDArray[np.int64], centroids_KD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run one Lloyd iteration over all rows; move empty centroids to the tokens with the worst fit."""
    nearest = NearestCentroid(centroids_KD)
    code_T = np.empty(len(rows_T), dtype=np.int64)
    fit_T = np.empty(len(rows_T), dtype=np.float32)
    for start in range(0, len(rows_T), _BLOCK):
        tokens_TD = _take(sample_TD, rows_T[start : start + _BLOCK])
        codes = nearest(tokens_TD)
        code_T[start : start + _BLOCK] = codes
        fit_T[start : start + _BLOCK] = np.einsum("td,td->t", tokens_TD, centroids_KD[codes])
    order_T = np.argsort(code_T, kind="stable")
    sizes_K = np.bincount(code_T, minlength=len(centroids_KD))
    ends_K = np.cumsum(sizes_K)
    moved_KD = centroids_KD.copy()
    used_K = np.flatnonzero(sizes_K)
    for group_K in np.array_split(used_K, math.ceil(len(rows_T) / _BLOCK)):
        if len(group_K):
            first = ends_K[group_K[0]] - sizes_K[group_K[0]]
            tokens_TD = _take(sample_TD, rows_T[order_T[first : ends_K[group_K[-1]]]])
            starts_K = ends_K[group_K] - sizes_K[group_K] - first
            moved_KD[group_K] = np.add.reduceat(tokens_TD, starts_K, axis=0)
    empty_K = np.flatnonzero(sizes_K == 0)
    worst_T = np.argsort(fit_T, kind="stable")[: 4 * len(empty_K) : 4]
    moved_KD[empty_K[: len(worst_T)]] = _take(sample_TD, rows_T[worst_T])
    return moved_KD


def _kmeans(tokens_TD: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    return clusters(tokens_TD, k, seed, iterations=_ITERATIONS, max_points=_POINTS_PER_CENTROID)


def _take(sample_TD: NDArray[Any], rows_T: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return normalised rows as float32: spherical k-means clusters directions."""
    tokens_TD: NDArray[np.float32] = sample_TD[rows_T].astype(np.float32)
    norms_T = np.sqrt(np.einsum("td,td->t", tokens_TD, tokens_TD))
    tokens_TD /= np.maximum(norms_T, np.float32(1e-12))[:, None]
    return tokens_TD


def _subsample(rows_T: NDArray[np.int64], n_points: int, seed: int) -> NDArray[np.int64]:
    if len(rows_T) <= n_points:
        return rows_T
    return rows_T[np.sort(np.random.default_rng(seed).choice(len(rows_T), n_points, replace=False))]


def _rounded(centroids_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normalised centroids, rounded to float16 precision."""
    norms_K1 = np.maximum(np.linalg.norm(centroids_KD, axis=1, keepdims=True), 1e-12)
    rounded_KD: NDArray[np.float32] = (centroids_KD / norms_K1).astype(np.float16).astype(np.float32)
    return rounded_KD
