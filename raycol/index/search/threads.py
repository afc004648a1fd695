"""One function over many queries, on as many threads as are wanted: the kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from raycol.index.search.counts import check_count

A = TypeVar("A")
R = TypeVar("R")


def check_threads(threads: int | None) -> int:
    """How many threads are wanted at most; all cores for None. Raises `InputError`."""
    return (os.cpu_count() or 1) if threads is None else check_count("threads", threads)


def each(function: Callable[[A], R], items: Sequence[A], threads: int) -> list[R]:
    """`function` of each item, in order, on `threads` threads at most, no more than there are items."""
    wanted = min(len(items), threads)
    if wanted <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(wanted) as pool:
        return list(pool.map(function, items))
