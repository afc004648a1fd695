"""Reading every byte of an index against its manifest."""

from __future__ import annotations

from pathlib import Path

from raycol.index.manifest import PARTITIONS, Manifest
from raycol.index.storage import verify_files


def verify_index(root: Path, manifest: Manifest) -> list[str]:
    """One line for each file of a version that is missing, damaged, or not in its manifest.

    Needs no more than the manifest to be readable: what is too damaged to be opened can still be named.
    """
    problems = list(verify_files(root / manifest.codebook.name, manifest.codebook.files))
    for info in manifest.partitions:
        problems += verify_files(root / PARTITIONS / info.id, info.files)
    return problems
