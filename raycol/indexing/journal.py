"""What an unfinished build has done already, so that the same command continues it.

`builds/<fingerprint>/` in the index's folder holds a file for the codebook and one for each finished
partition. The fingerprint is made of everything that decides the outcome: corpus, model, settings. It is
removed once the build is committed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from raycol.errors import IndexCorruptError, writing
from raycol.index.manifest import PARTITIONS, CodebookInfo, PartitionInfo
from raycol.index.storage import Files, check_length, write_file

BUILDS = "builds"

Info = TypeVar("Info", CodebookInfo, PartitionInfo)


class Journal:
    """The record of one build, by its fingerprint."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root = root
        self.folder = root / BUILDS / fingerprint

    def codebook(self) -> CodebookInfo | None:
        """The codebook, once trained, if it is still there."""
        info = self._read(CodebookInfo, "codebook")
        return info if info and _stands(self.root / info.name, info.files) else None

    def save_codebook(self, info: CodebookInfo) -> None:
        """Note that the codebook is on disk."""
        self._write("codebook", info)

    def partition(self, number: int) -> PartitionInfo | None:
        """A partition by its place in the plan, once written, if it is still there."""
        info = self._read(PartitionInfo, f"{number:08d}")
        return info if info and _stands(self.root / PARTITIONS / info.id, info.files) else None

    def save_partition(self, number: int, info: PartitionInfo) -> None:
        """Note that a partition is on disk."""
        self._write(f"{number:08d}", info)

    def remove(self) -> None:
        """Forget the build, and any other that was begun and given up here."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _write(self, name: str, info: CodebookInfo | PartitionInfo) -> None:
        with writing(self.root):
            write_file(self._path(name), info.model_dump_json().encode())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, kind: type[Info], name: str) -> Info | None:
        try:
            return kind.model_validate_json(self._path(name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def _stands(folder: Path, files: Files) -> bool:
    """Whether every file is there at its full length: the journal may outlive what it names."""
    try:
        for name, info in files.items():
            check_length(folder / name, info)
    except IndexCorruptError:
        return False
    return True
