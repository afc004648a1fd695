"""`kernel`: compile a function with numba on first use, without the GIL, cached on disk if possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Names, times and sizes of all modules of kernels.
_STAMP = tuple(
    (path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(Path(__file__).parent.glob("*.py"))
)


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled by `numba.njit`, with more `options`.

    numba caches next to the source file, in the user's cache folder or in NUMBA_CACHE_DIR, and raises if it can write
    to none of them; then each process compiles for itself. It compiles again after a change of the function's module;
    but constants and inlined functions of other modules are compiled into it, and a kernel with old columns of
    addresses reads anywhere. So a change of any module of kernels counts.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
            cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
            if cache_file is not None:  # None with NUMBA_DISABLE_JIT
                cache_file._source_stamp = _STAMP
            return dispatcher
        except RuntimeError:  # no writable cache folder
            return numba.njit(nogil=True, **options)(function)

    return compiled
