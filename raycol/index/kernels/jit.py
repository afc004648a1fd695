"""How kernels are compiled: on first use, without the interpreter's lock, and kept on disk where there is a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba, whose `options` are added.

    numba keeps what it compiled beside the function's file, or else in the user's cache folder, or where
    NUMBA_CACHE_DIR says. Where none of these can be written it refuses; then every process compiles anew.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no place to keep it
            return numba.njit(nogil=True, **options)(function)

    return compiled
