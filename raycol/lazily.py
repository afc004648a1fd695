"""Packages whose names are imported on first use, so that what needs one module does not wait for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
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
