"""Nearest-centroid search, which takes much of a build's time.

Below `FEW_CENTROIDS` the search is exhaustive. Above, centroids are in about sqrt(K) cells, and a token is compared
with those of an eighth of the cells (at least 16), as in the IVF of faiss (Douze et al. 2024, arXiv 2401.08281), by
products of bytes (`kernels.assign`). It finds the nearest centroid of 98 % of tokens, and a nearly equal one for the
rest (`benchmarks/index.py assign`).

In both cases the result of a token does not depend on the rest of the batch.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from raycol.core.threads import map_threads, openmp_threads
from raycol.index.codec.centroid_bytes import scales_of, to_bytes
from raycol.index.codec.clusters import clusters
from raycol.index.kernels.assign import KEY_ROWS, nearest_in_cells
from raycol.index.kernels.quantise import nearest_centroids
from raycol.index.kernels.vectors import ROWS

FEW_CENTROIDS = 1024

_MIN_PROBES = 16
_CELLS_PER_PROBE = 8
# Tokens at a time: enough that most tiles of a cell are full, few enough that their scores stay in the cache.
_BATCH = 4096
# For the cells' own k-means.
_ITERATIONS = 10
_CENTROIDS_PER_CELL = 256
_SEED = 1234


class NearestCentroid:
    """Finds the centroid of largest dot product with a token; centroids are float32 [K, D], of norm 1 if trained."""

    def __init__(self, centroids_KD: NDArray[np.float32]) -> None:
        self._centroids_KD = centroids_KD
        self._cells = Cells(centroids_KD) if len(centroids_KD) >= FEW_CENTROIDS else None

    def __call__(self, tokens_TD: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Return the code of each token's nearest centroid, uint32 [T]."""
        cells = self._cells
        if cells is None:
            return np.asarray(nearest_centroids(tokens_TD, self._centroids_KD))
        batches = [tokens_TD[start : start + _BATCH] for start in range(0, len(tokens_TD), _BATCH)]
        codes = map_threads(cells.nearest, batches, openmp_threads())
        return np.concatenate(codes) if codes else np.empty(0, dtype=np.uint32)


class Cells:
    """Centroids by cell, as bytes, and nearest-centroid search over them (`kernels.assign`)."""

    def __init__(self, centroids_KD: NDArray[np.float32]) -> None:
        n_cells = 1 << round(math.log2(math.sqrt(len(centroids_KD))))
        sample_KD = centroids_KD[:: math.ceil(len(centroids_KD) / (n_cells * _CENTROIDS_PER_CELL))]
        cells_GD = clusters(sample_KD, n_cells, _SEED, iterations=_ITERATIONS, max_points=_CENTROIDS_PER_CELL)
        cell_K = np.concatenate(
            [
                (centroids_KD[start : start + _BATCH] @ cells_GD.T).argmax(axis=1)
                for start in range(0, len(centroids_KD), _BATCH)
            ]
        )
        # Of equal centroids k-means makes cells that stay empty: a token that probed only those would find none.
        used_G, cell_K = np.unique(cell_K, return_inverse=True)
        cells_GD, n_cells = cells_GD[used_G], len(used_G)
        ends_G = np.cumsum(np.bincount(cell_K))
        by_cell = np.split(np.argsort(cell_K, kind="stable"), ends_G[:-1])
        segments = [
            [members[start : start + KEY_ROWS] for start in range(0, len(members), KEY_ROWS)] for members in by_cell
        ]
        sizes_S = np.array([len(segment) for cell in segments for segment in cell])
        padded_S = -(-sizes_S // ROWS) * ROWS
        starts_S = np.cumsum(padded_S) - padded_S
        codes_R = np.zeros(padded_S.sum(), dtype=np.int32)
        for start, segment in zip(starts_S, (segment for cell in segments for segment in cell), strict=True):
            codes_R[start : start + len(segment)] = segment
        scales_D = scales_of(centroids_KD)
        self._centroids_KD = centroids_KD
        # The arguments of `nearest_in_cells`.
        self._arguments = (
            scales_D,
            to_bytes(cells_GD, scales_D, ROWS),
            n_cells,
            min(n_cells, max(_MIN_PROBES, n_cells // _CELLS_PER_PROBE)),
            to_bytes(centroids_KD[codes_R], scales_D, ROWS),
            codes_R,
            starts_S,
            starts_S + sizes_S,
            np.cumsum([0, *map(len, segments)]),
        )

    def nearest(self, tokens_TD: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Return the code of each token's nearest centroid, uint32 [T]."""
        return np.asarray(nearest_in_cells(tokens_TD, self._centroids_KD, *self._arguments))
