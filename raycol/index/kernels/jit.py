"""`kernel`: compile a function with numba on first use, without the GIL, cached on disk if possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled by `numba.njit`, with more `options`.

    numba caches next to the source file, in the user's cache folder or in NUMBA_CACHE_DIR, and raises if it can write
    to none of them; then each process compiles for itself.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no writable cache folder
            return numba.njit(nogil=True, **options)(function)

    return compiled
