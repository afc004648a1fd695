"""A thread pool over queries or batches; the kernels release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from raycol.core.validation import check_positive_int

A = TypeVar("A")
R = TypeVar("R")


def check_threads(threads: int | None) -> int:
    """Return the maximum number of threads; None means one per core. Raises `InputError` if it is below 1."""
    return (os.cpu_count() or 1) if threads is None else check_positive_int("threads", threads)


def openmp_threads() -> int:
    """Return the number of threads that OpenMP's libraries would use: Ray sets it for its workers."""
    set_by_user = os.environ.get("OMP_NUM_THREADS", "")
    return int(set_by_user) if set_by_user.isdecimal() and int(set_by_user) else os.cpu_count() or 1


def map_threads(function: Callable[[A], R], items: Sequence[A], max_threads: int) -> list[R]:
    """Apply `function` to each item on at most `max_threads` threads; results are in the order of `items`."""
    n_threads = min(len(items), max_threads)
    if n_threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))
