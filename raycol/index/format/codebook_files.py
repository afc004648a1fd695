"""Saves and opens codebooks: a folder named after its contents, with three arrays."""

from __future__ import annotations

import numpy as np

from raycol.errors import IndexCorruptError, writing
from raycol.index.codec.codebook import Codebook
from raycol.index.format.manifest import CODEBOOKS, CodebookInfo
from raycol.storage.checked_files import content_name, open_array, save_array
from raycol.storage.store import Store

# Far beyond the values of unit vectors and their residuals, and small enough that no score overflows.
_MAX_ABS_VALUE = 1e4


def save_codebook(store: Store, codebook: Codebook) -> CodebookInfo:
    """Write a codebook to a store and return its manifest entry."""
    with store.workspace(0) as folder, writing(store):
        files = {
            "centroids.npy": save_array(folder / "centroids.npy", codebook.centroids_KD.astype(np.float16)),
            "lows.npy": save_array(folder / "lows.npy", codebook.lows_D),
            "steps.npy": save_array(folder / "steps.npy", codebook.steps_D),
        }
        name = content_name(0, files)
        store.publish(folder, f"{CODEBOOKS}/{name}", files)
    return CodebookInfo(name=name, n_centroids=codebook.n_centroids, error=codebook.error, files=files)


def open_codebook(store: Store, info: CodebookInfo, dim: int, bits: int) -> Codebook:
    """Read a codebook and check all of it.

    Raises:
        IndexCorruptError: a file does not match the manifest, or holds NaN or values out of range.
    """
    folder, k, d = store.checked(f"{CODEBOOKS}/{info.name}", info.files), info.n_centroids, dim
    centroids_KD = open_array(folder, "centroids.npy", info.files, np.float16, (k, d))
    lows_D = open_array(folder, "lows.npy", info.files, np.float32, (d,))
    steps_D = open_array(folder, "steps.npy", info.files, np.float32, (d,))
    for name, values in (("centroids.npy", centroids_KD), ("lows.npy", lows_D), ("steps.npy", steps_D)):
        if not np.abs(values).max() <= _MAX_ABS_VALUE:  # also false for NaN
            raise IndexCorruptError(f"{folder / name}: holds NaN or values beyond {_MAX_ABS_VALUE:g}")
    return Codebook(centroids_KD.astype(np.float32), np.array(lows_D), np.array(steps_D), bits, info.error)
