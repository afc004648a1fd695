"""The journal of an unfinished build: its finished parts, from which the same command continues.

`builds/<version>-<fingerprint>/` in the index holds a file for the codebook and one for each finished part, written by
the worker that finished it. The version is the one that the build started from, 0 for a new index; the fingerprint
covers everything that determines the result: corpus, model, settings. The folder is deleted once the build is
committed.
"""

from __future__ import annotations

import json
from typing import TypeVar

import xxhash
from pydantic import BaseModel

from raycol.errors import writing
from raycol.index.format.manifest import BUILDS, CODEBOOKS, FORMAT_VERSION, PARTITIONS, CodebookInfo, ModelInfo
from raycol.indexing.config import EncodingConfig
from raycol.indexing.part import BuiltPart, PartSettings
from raycol.indexing.plan import BuildPlan
from raycol.storage import Files, Store
from raycol.storage.checked_files import seal, unseal

# Large, because a part's record lists its skipped documents.
_MAX_RECORD_BYTES = 64 << 20

R = TypeVar("R", bound=BaseModel)


def fingerprint(
    config: EncodingConfig, plan: BuildPlan, settings: PartSettings, model: ModelInfo | None, **codec: object
) -> str:
    """Return the XXH3 of everything that determines the bytes of a build or an append.

    Args:
        config: settings; `on_error` and the number of workers are not part of the fingerprint.
        plan: the corpus, cut into parts.
        settings: settings of every part.
        model: the encoder; None if documents come encoded.
        codec: settings of the codebook, or its name.
    """
    part_settings = json.loads(settings.to_json())
    del part_settings["on_error"]
    encoding = [config.docs_per_partition, config.dtype, config.on_gpu]
    inputs = [FORMAT_VERSION, plan.digest, part_settings, model.fingerprint if model else None, encoding, codec]
    return xxhash.xxh3_64_hexdigest(json.dumps(inputs).encode())


class Journal:
    """The journal of the build with a fingerprint that started from version `base`."""

    def __init__(self, store: Store, base: int, fingerprint: str) -> None:
        self.name = f"{BUILDS}/{base:08d}-{fingerprint}"
        self._base = base
        self._store = store

    @classmethod
    def from_name(cls, store: Store, name: str) -> Journal:
        """Open a journal by its name, in another process."""
        base, _, fingerprint = name.removeprefix(f"{BUILDS}/").partition("-")
        return cls(store, int(base), fingerprint)

    def exists(self) -> bool:
        """Return whether the journal has any record."""
        return bool(self._store.names(self.name))

    def codebook(self) -> CodebookInfo | None:
        """Return the trained codebook; None if there is none or its files are damaged."""
        info = self._read(CodebookInfo, "codebook")
        return info if info and self._is_intact(f"{CODEBOOKS}/{info.name}", info.files) else None

    def save_codebook(self, info: CodebookInfo) -> None:
        """Record a codebook whose files are written."""
        self._write("codebook", info)

    def discard_parts(self) -> None:
        """Delete all records: their partitions cannot be used, for instance because their codebook is lost."""
        with writing(self._store):
            self._store.remove(self.name)

    def built(self, number: int) -> BuiltPart | None:
        """Return a finished part by its number in the plan; None if it is unfinished or its partition is damaged."""
        built = self._read(BuiltPart, self._part(number))
        if built and built.info and not self._is_intact(f"{PARTITIONS}/{built.info.name}", built.info.files):
            return None
        return built

    def save_built(self, number: int, built: BuiltPart) -> None:
        """Record a finished part whose partition is written."""
        self._write(self._part(number), built)

    def remove(self) -> None:
        """Delete this journal and those of builds from the same or an earlier version, which can no longer commit.

        Builds from later versions may be running.
        """
        with writing(self._store):
            for name in self._store.names(BUILDS):
                base, _, _ = name.partition("-")
                if not base.isdigit() or int(base) <= self._base:
                    self._store.remove(f"{BUILDS}/{name}")
            if not self._store.names(BUILDS):
                self._store.remove(BUILDS)

    def _write(self, name: str, record: BaseModel) -> None:
        with writing(self._store):
            self._store.write(self._path(name), seal(record.model_dump_json().encode()))

    def _part(self, number: int) -> str:
        """A part's file name; vacuum reads the version to be committed from its prefix, as from a manifest's name."""
        return f"{self._base + 1:08d}-{number:08d}"

    def _path(self, name: str) -> str:
        return f"{self.name}/{name}.json"

    def _read(self, kind: type[R], name: str) -> R | None:
        try:
            return kind.model_validate_json(unseal(self._store.read(self._path(name), _MAX_RECORD_BYTES)))
        except (OSError, ValueError):
            return None

    def _is_intact(self, folder: str, files: Files) -> bool:
        """Whether every file exists with its recorded checksum; files may be deleted or damaged after the record."""
        return all(self._store.describe(f"{folder}/{name}") == info for name, info in files.items())
