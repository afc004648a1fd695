"""What an unfinished build has done already, so that the same command continues it.

`builds/<version>-<fingerprint>/` in the index holds a file for the codebook and one for each finished part, which the
worker that finished it wrote. The version is the one that the build started from, 0 for a new index; the fingerprint
is made of everything that decides the outcome: corpus, model, settings. The folder is removed once the build is
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
from raycol.indexing.part import Built, Task
from raycol.indexing.plan import BuildPlan
from raycol.storage import Files, Store
from raycol.storage.checked_files import seal, unseal

# A part's record lists the documents that were left out.
_MAX_RECORD_BYTES = 64 << 20

R = TypeVar("R", bound=BaseModel)


def fingerprint(config: EncodingConfig, plan: BuildPlan, task: Task, model: ModelInfo | None, **codec: object) -> str:
    """Name a build or an append by everything that decides its bytes.

    Args:
        config: its settings; what errors do and how many workers there are does not count.
        plan: the corpus, cut into parts.
        task: the work on a part: fields, columns, splitting and so on.
        model: the encoder, if there is one.
        codec: what the codebook is or will be trained by.
    """
    work = json.loads(task.to_json())
    del work["on_error"]
    settings = [config.docs_per_partition, config.dtype, config.on_gpu]
    name = [FORMAT_VERSION, plan.digest, work, model.fingerprint if model else None, settings, codec]
    return xxhash.xxh3_64_hexdigest(json.dumps(name).encode())


class Journal:
    """The record of one build, by its fingerprint."""

    def __init__(self, store: Store, base: int, fingerprint: str) -> None:
        self.name = f"{BUILDS}/{base:08d}-{fingerprint}"
        self._base = base
        self._store = store

    @classmethod
    def named(cls, store: Store, name: str) -> Journal:
        """The same record, in another process."""
        base, _, fingerprint = name.removeprefix(f"{BUILDS}/").partition("-")
        return cls(store, int(base), fingerprint)

    def exists(self) -> bool:
        """Whether anything was noted, and the build not tidied up yet."""
        return bool(self._store.names(self.name))

    def codebook(self) -> CodebookInfo | None:
        """The codebook, once trained, if it is still there."""
        info = self._read(CodebookInfo, "codebook")
        return info if info and self._stands(f"{CODEBOOKS}/{info.name}", info.files) else None

    def save_codebook(self, info: CodebookInfo) -> None:
        """Note that the codebook is on disk."""
        self._write("codebook", info)

    def forget_parts(self) -> None:
        """Forget what was built with a codebook that is gone."""
        with writing(self._store):
            self._store.remove(self.name)

    def built(self, number: int) -> Built | None:
        """A part by its place in the plan, once its partition is written, if that is still there."""
        built = self._read(Built, self._part(number))
        if built and built.info and not self._stands(f"{PARTITIONS}/{built.info.name}", built.info.files):
            return None
        return built

    def save_built(self, number: int, built: Built) -> None:
        """Note that a part's partition is on disk."""
        self._write(self._part(number), built)

    def remove(self) -> None:
        """Forget the build, and others that began no later: they can only fail. Later ones are at work."""
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
        """Begins, as a manifest's name does, with the version that will be: vacuum goes by what a name begins with."""
        return f"{self._base + 1:08d}-{number:08d}"

    def _path(self, name: str) -> str:
        return f"{self.name}/{name}.json"

    def _read(self, kind: type[R], name: str) -> R | None:
        try:
            return kind.model_validate_json(unseal(self._store.read(self._path(name), _MAX_RECORD_BYTES)))
        except (OSError, ValueError):
            return None

    def _stands(self, folder: str, files: Files) -> bool:
        """Whether every file is there, byte for byte: the journal may outlive what it names, or the disk spoil it."""
        return all(self._store.describe(f"{folder}/{name}") == info for name, info in files.items())
