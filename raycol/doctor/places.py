"""Which places should be shared: those that are named, and where a planned index goes."""

from __future__ import annotations

import os
from pathlib import Path


def storage_of(out: str) -> str:
    """The folder of a result that may not be there yet, which its storage is known by; a URI as it is."""
    if "://" in out:
        return out
    path = Path(out).absolute()
    return str(next(folder for folder in (path, *path.parents) if os.path.isdir(folder)))
