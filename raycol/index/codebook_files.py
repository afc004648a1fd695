"""The codebook on disk: a folder named after its contents, with three arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raycol.errors import writing
from raycol.index.codebook import Codebook
from raycol.index.manifest import CodebookInfo
from raycol.index.storage import content_name, finish_folder, open_array, save_array, unfinished_folder


def save_codebook(root: Path, codebook: Codebook) -> CodebookInfo:
    """Write a codebook into the index at `root`."""
    with unfinished_folder(root) as folder, writing(root):
        files = {
            "centroids.npy": save_array(folder / "centroids.npy", codebook.centroids_KD),
            "lows.npy": save_array(folder / "lows.npy", codebook.lows_D),
            "steps.npy": save_array(folder / "steps.npy", codebook.steps_D),
        }
        name = f"codebook-{content_name(files)}"
        finish_folder(folder, root / name)
    return CodebookInfo(name=name, n_centroids=codebook.n_centroids, files=files)


def open_codebook(root: Path, info: CodebookInfo, dim: int, bits: int) -> Codebook:
    """Open a codebook that was saved in the index at `root`."""
    folder, k, d = root / info.name, info.n_centroids, dim
    return Codebook(
        np.asarray(open_array(folder, "centroids.npy", info.files, np.float32, (k, d))),
        np.asarray(open_array(folder, "lows.npy", info.files, np.float32, (d,))),
        np.asarray(open_array(folder, "steps.npy", info.files, np.float32, (d,))),
        bits,
    )
