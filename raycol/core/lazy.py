"""Packages whose names are imported on first use, so that what needs one module does not wait for all of them."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): each name is looked up in its module when it is asked for.

    None may be called as a module of the package is: once that is imported, the name means the module.

    Args:
        package: the package's own name.
        homes: the module of each name.
    """

    def lookup(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return lookup


@contextmanager
def without_gc() -> Iterator[None]:
    """Import large libraries in the block without the garbage collector, and keep them from it afterwards.

    torch and sentence-transformers make a million objects, none of which is ever garbage. The collector takes a fifth
    of the time in which they are imported, and half a second for each full collection later.

    Only for processes that are raycol's own: what exists at the end of the block is not looked at any more.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # The interpreter's last collection takes it all: nanobind would print what is left as leaks.
        atexit.register(gc.unfreeze)
