"""What an unfinished build has done already, so that the same command continues it.

`builds/<version>-<fingerprint>/` in the index holds a file for the codebook and one for each finished partition. The
version is the one that the build started from, 0 for a new index; the fingerprint is made of everything that
decides the outcome: corpus, model, settings. The folder is removed once the build is committed.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.index.manifest import BUILDS, CODEBOOKS, PARTITIONS, CodebookInfo, PartitionInfo
from raycol.index.storage import Files, Store

_MAX_RECORD_BYTES = 1 << 20

Info = TypeVar("Info", CodebookInfo, PartitionInfo)


class Journal:
    """The record of one build, by its fingerprint."""

    def __init__(self, store: Store, base: int, fingerprint: str) -> None:
        self._store = store
        self._folder = f"{BUILDS}/{base:08d}-{fingerprint}"

    def codebook(self) -> CodebookInfo | None:
        """The codebook, once trained, if it is still there."""
        info = self._read(CodebookInfo, "codebook")
        return info if info and self._stands(f"{CODEBOOKS}/{info.name}", info.files) else None

    def save_codebook(self, info: CodebookInfo) -> None:
        """Note that the codebook is on disk."""
        self._write("codebook", info)

    def partition(self, number: int) -> PartitionInfo | None:
        """A partition by its place in the plan, once written, if it is still there."""
        info = self._read(PartitionInfo, f"{number:08d}")
        return info if info and self._stands(f"{PARTITIONS}/{info.name}", info.files) else None

    def save_partition(self, number: int, info: PartitionInfo) -> None:
        """Note that a partition is on disk."""
        self._write(f"{number:08d}", info)

    def remove(self) -> None:
        """Forget the build, and any other that was begun and given up here."""
        with writing(self._store):
            self._store.remove(BUILDS)

    def _write(self, name: str, info: CodebookInfo | PartitionInfo) -> None:
        with writing(self._store):
            self._store.write(self._path(name), info.model_dump_json().encode())

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.json"

    def _read(self, kind: type[Info], name: str) -> Info | None:
        try:
            return kind.model_validate_json(self._store.read(self._path(name), _MAX_RECORD_BYTES))
        except (OSError, ValidationError):
            return None

    def _stands(self, folder: str, files: Files) -> bool:
        """Whether every file is there at its full length: the journal may outlive what it names."""
        try:
            self._store.check_lengths(folder, files)
        except (IndexCorruptError, RaycolError):
            return False
        return True
