"""Lazy imports, so that a command does not wait for modules it does not use."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562), which imports each name from its module on first access.

    A name must differ from those of the package's modules: once such a module is imported, the name refers to it.

    Args:
        package: name of the package.
        modules: the module of each name.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get_attribute


@contextmanager
def without_gc() -> Iterator[None]:
    """Disable garbage collection in the block, then freeze all objects. For imports of large libraries.

    torch and sentence-transformers create a million objects that are never garbage. Collection takes a fifth of their
    import time, and later half a second per full collection.

    Only for raycol's own processes: the collector ignores all objects that exist at the end of the block.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # The collection at exit must see all objects; otherwise nanobind reports them as leaks.
        atexit.register(gc.unfreeze)
