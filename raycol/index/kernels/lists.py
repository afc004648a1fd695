"""Entries of inverted lists, which `format.lists` writes: ascending documents, as gaps of one to five bytes."""

from __future__ import annotations

import numba
import numpy as np

from raycol.index.kernels.addresses import uint8_at, unsigned_at
from raycol.index.kernels.jit import kernel

# Gaps below SHORT take one byte, and those below WIDE two. WORD and LONG precede a gap of 16 and of 32 bits.
SHORT, WORD, LONG = 224, 254, 255
WIDE = SHORT + 256 * (WORD - SHORT)


@numba.njit(inline="always")
def gap_at(place):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the gap of the entry at an address, and the number of its bytes."""
    gap, n_bytes = np.int64(uint8_at(place, 0)), 1
    if gap >= SHORT:
        if gap < WORD:
            gap, n_bytes = SHORT + ((gap - SHORT) << 8) + np.int64(uint8_at(place, 1)), 2
        else:
            n_bytes = 3 if gap == WORD else 5
            gap = np.int64(0)
            for i in range(1, n_bytes):
                gap |= np.int64(uint8_at(place, i)) << (8 * (i - 1))
    return gap, n_bytes


@kernel()
def invalid_list(offsets, offset_bytes, lists, n_centroids, n_documents):  # type: ignore[no-untyped-def]
    """Return the first centroid with a list that ends within an entry or has no such documents; -1 if none is.

    Args:
        offsets, lists: addresses of the first byte of each list, ascending, and of the lists.
        offset_bytes: bytes of an offset, 2 or 4.
        n_centroids, n_documents: of the partition.
    """
    for centroid in range(n_centroids):
        place = lists + unsigned_at(offsets, centroid, offset_bytes)
        end = lists + unsigned_at(offsets, centroid + 1, offset_bytes)
        document = np.int64(-1)
        while place < end:
            first = uint8_at(place, 0)
            n_bytes = 1 if first < SHORT else 2 if first < WORD else 3 if first == WORD else 5
            if place + n_bytes > end:
                return centroid
            gap, _ = gap_at(place)
            document += gap + 1
            if document >= n_documents:
                return centroid
            place += n_bytes
    return -1
