"""Inverted lists of a partition: for each centroid, the documents that have a token of it, ascending, as gaps.

A list begins with its first document; every further entry is the difference to the one before, less one. A number
below SHORT takes one byte. Others begin with a byte that tells what follows:

    224 .. 253   one byte: 224 + 256 * (first - 224) + second
    254          two bytes, a 16-bit integer
    255          four bytes, a 32-bit integer

Shapes: T tokens, N documents, K centroids, E entries of all lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.kernels.lists import LONG, SHORT, WIDE, WORD

# The first byte of each list [K + 1], the last of which is the number of bytes; and the lists.
Lists = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.uint8]]

# Partitions of fewer tokens have no lists: a search joins neighbours, and makes their lists from their codes. Else an
# index of many small ones would take a step for each list of each partition, from memory that no cache holds.
STORED_TOKENS = 1 << 19
# Partitions are joined up to this many tokens: about those of a large one.
JOINED_TOKENS = 1 << 20


def encode_lists(codes_T: NDArray[np.unsignedinteger[Any]], lengths_N: NDArray[np.int64], n_centroids: int) -> Lists:
    """Return the first byte of each list and the bytes of all lists.

    Args:
        codes_T: centroid of each token.
        lengths_N: tokens of each document.
        n_centroids: K.

    Returns:
        Offsets [K + 1] of `offset_dtype`, the last of which is the number of bytes; and the lists, uint8.
    """
    order_T = np.argsort(codes_T, kind="stable")
    codes_E = codes_T[order_T]
    documents_E = np.repeat(np.arange(len(lengths_N)), lengths_N)[order_T]
    is_first_E = np.ones(len(codes_E), dtype=bool)
    is_first_E[1:] = codes_E[1:] != codes_E[:-1]
    is_new_E = is_first_E.copy()
    is_new_E[1:] |= documents_E[1:] != documents_E[:-1]  # a document may have many tokens of one centroid
    codes_E, documents_E, is_first_E = codes_E[is_new_E], documents_E[is_new_E], is_first_E[is_new_E]
    gaps_E = documents_E.copy()
    gaps_E[1:] -= np.where(is_first_E[1:], 0, documents_E[:-1] + 1)
    widths_E = np.select([gaps_E < SHORT, gaps_E < WIDE, gaps_E < 1 << 16], [1, 2, 3], 5)
    ends_E = np.cumsum(widths_E)
    if ends_E[-1] >= 2**32:
        raise InputError(
            f"lists of {ends_E[-1]} bytes in a partition; expected fewer than 2^32. Lower partition_tokens"
        )
    lists = np.empty(int(ends_E[-1]), dtype=np.uint8)
    for width in (1, 2, 3, 5):
        chosen = np.flatnonzero(widths_E == width)
        for place, column in enumerate(_encoded(gaps_E[chosen], width)):
            lists[ends_E[chosen] - width + place] = column
    bytes_K = np.bincount(codes_E, weights=widths_E, minlength=n_centroids).astype(np.int64)
    return np.concatenate([[0], np.cumsum(bytes_K)]).astype(offset_dtype(len(lists))), lists


def _encoded(gaps_E: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
    """Return the bytes of gaps that take `width` bytes each: one array for each byte."""
    if width == 1:
        return [gaps_E]
    if width == 2:
        return [SHORT + (gaps_E - SHORT) // 256, (gaps_E - SHORT) % 256]
    first = np.full_like(gaps_E, WORD if width == 3 else LONG)
    return [first, *((gaps_E >> shift) & 0xFF for shift in range(0, 8 * (width - 1), 8))]


def offset_dtype(n_bytes: int) -> type[np.unsignedinteger[Any]]:
    """Dtype of the offsets into lists of this length: those of a small partition fit the cache for twice as many."""
    return np.uint16 if n_bytes < 1 << 16 else np.uint32
