"""Large arrays that one search after the other writes.

The allocator gives arrays of megabytes back to the system, and does so at once where a thread other than the first had
them. To get their pages again took half of a search in an index of 100 million tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Scratch:
    """The arrays of one search, by name."""

    def __init__(self) -> None:
        self._bytes: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array that holds anything; valid until the next one of this name."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        kept = self._bytes.get(name)
        if kept is None or len(kept) < size:
            kept = self._bytes[name] = np.empty(size, dtype=np.uint8)
        return kept[:size].view(dtype).reshape(shape)


class Scratches:
    """As many as there are searches at once."""

    def __init__(self) -> None:
        self._free: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        """One that no other thread has meanwhile."""
        try:
            scratch = self._free.pop()  # atomic, as `append` is
        except IndexError:
            scratch = Scratch()
        try:
            yield scratch
        finally:
            self._free.append(scratch)
