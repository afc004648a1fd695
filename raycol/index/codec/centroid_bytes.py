"""Vectors as bytes with an offset of 128, and one scale per dimension: c_d is about (byte_d - 128) * scale_d.

Shapes: K vectors, D dimensions, R = K rounded up to a multiple.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Vectors to convert at a time.
_BLOCK = 16384


def scales_of(vectors_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scales with which all vectors fit bytes, float32 [D]."""
    scales_D: NDArray[np.float32] = np.maximum(np.abs(vectors_KD).max(axis=0), np.float32(1e-12)) / np.float32(127)
    return scales_D


def to_bytes(vectors_KD: NDArray[np.float32], scales_D: NDArray[np.float32], multiple: int) -> NDArray[np.uint8]:
    """Return vectors as bytes, clipped to -127 to 127 scales, padded with zeros: uint8 [R, D]."""
    n_vectors, dim = vectors_KD.shape
    rows_RD = np.full((-(-n_vectors // multiple) * multiple, dim), 128, dtype=np.uint8)
    for start in range(0, n_vectors, _BLOCK):
        levels_KD = np.rint(vectors_KD[start : start + _BLOCK] / scales_D).clip(-127, 127)
        rows_RD[start : start + len(levels_KD)] = (levels_KD + 128).astype(np.uint8)
    return rows_RD
