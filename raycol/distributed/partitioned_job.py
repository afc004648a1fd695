"""A resumable job over parts, in a folder of a store.

    <folder>/job.json         the settings that the job's fingerprint covers, with a checksum
    <folder>/00000000.json    record of a finished part: its result, and the files that it wrote, with a checksum

The name of the folder ends in the fingerprint, a hash of everything that decides the result, so the same command finds
it after a crash. The worker that computes a part writes the part's files, and then its record. A part whose record or
files are missing or damaged is computed again. What becomes of the finished parts is up to the caller: they count only
once it has published its result, which it does last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict

from raycol.core.memory import release_memory
from raycol.distributed.executor import Executor, I, Worker, WorkersConfig
from raycol.distributed.part_progress import PartProgress
from raycol.errors import InputError, writing
from raycol.storage import Store, StoredFolder
from raycol.storage.checked_files import seal, unseal

# Threads that read the records of finished parts, and the files that these list.
_READERS = 16
_SETTINGS = "job"
# Large, because a part's record lists its unusable records.
_MAX_RECORD_BYTES = 64 << 20
_MAX_VALUE_CHARS = 60

Settings = Mapping[str, Any]
"""Everything that decides the result of a job, by the name that a refusal shows; JSON values."""


class PartRecord(BaseModel):
    """The result of a finished part, as JSON. Subclasses add fields."""

    model_config = ConfigDict(frozen=True)

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The files that the part has written; the part is computed again if one is missing or damaged."""
        raise NotImplementedError


R = TypeVar("R", bound=PartRecord)
K = TypeVar("K", bound=PartRecord)


def fingerprint(settings: Settings) -> str:
    """Return the XXH3 of the settings, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())


def differences(theirs: Settings, ours: Settings) -> str:
    """Return the settings that differ, each with both values: "bits (4 there, 8 here), seed (0 there, 1 here)"."""
    theirs, ours = json.loads(json.dumps(theirs)), json.loads(json.dumps(ours))
    return ", ".join(
        f"{name} ({theirs.get(name)!s:.{_MAX_VALUE_CHARS}} there, {ours.get(name)!s:.{_MAX_VALUE_CHARS}} here)"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    )


@dataclass(frozen=True)
class PartitionedJob(Generic[R]):
    """A job over parts; Ray passes it to the workers.

    Args:
        store: where its folder is.
        prefix: name of its folder, less the fingerprint.
        settings: everything that decides the result.
        record: class of the records of parts.
    """

    store: Store
    prefix: str
    settings: Settings
    record: type[R]

    @cached_property
    def folder(self) -> str:
        """Name of the job's folder."""
        return f"{self.prefix}{fingerprint(self.settings)}"

    def exists(self) -> bool:
        """Whether the job has begun and is not removed."""
        return bool(self.store.names(self.folder))

    def begin(self) -> None:
        """Record the settings, so that a refused command can name the difference."""
        self._write(_SETTINGS, json.dumps(self.settings).encode())

    def refuse_others(self, target: object) -> None:
        """Refuse to start beside an unfinished job of the same prefix and other settings that has finished parts.

        Args:
            target: location of the result, for the message.

        Raises:
            InputError: there is such a job; names the settings that differ.
        """
        parent, _, start = self.prefix.rpartition("/")
        for name in self.store.names(parent):
            folder = f"{parent}/{name}" if parent else name
            is_job = name.startswith(start) and len(folder) == len(self.folder)
            if folder == self.folder or not is_job or not any(map(_is_part, self.store.names(folder))):
                continue
            theirs = _read(self.store, f"{folder}/{_SETTINGS}.json")
            differs = f", which differs in {differences(json.loads(theirs), self.settings)}" if theirs else ""
            raise InputError(
                f"{target}: another command was interrupted there{differs}; repeat that command to finish it, or "
                f"remove {self.store.location(folder)} to discard its parts"
            )

    def save(self, name: int | str, record: PartRecord) -> None:
        """Record a part by its number, or a step before the parts by a name, after writing its files."""
        self._write(name, record.model_dump_json().encode())

    def read(self, name: int | str, kind: type[K]) -> K | None:
        """Return a record; None if it, or a file that it lists, is missing or damaged."""
        content = _read(self.store, self._path(name))
        try:
            record = kind.model_validate_json(content) if content else None
        except ValueError:  # of another version of raycol
            return None
        return record if record and all(folder.is_intact(self.store) for folder in record.wrote) else None

    def finished_parts(self, n_parts: int) -> dict[int, R]:
        """Return the records of all finished parts, by number."""
        there = {int(name.removesuffix(".json")) for name in self.store.names(self.folder) if _is_part(name)}
        numbers = sorted(there.intersection(range(n_parts)))
        # Reading and checking them waits for the disk, or for the object store.
        with ThreadPoolExecutor(_READERS) as pool:
            records = pool.map(lambda number: self.read(number, self.record), numbers)
            return {number: record for number, record in zip(numbers, records, strict=True) if record}

    def run(
        self,
        worker: type[Worker[I, R]],
        config: WorkersConfig,
        inputs: Sequence[I],
        finished: Mapping[int, R],
        arguments: Mapping[str, Any],
        operation: str,
        executor: Executor,
        progress: PartProgress,
        check: Callable[[], None] | None = None,
    ) -> list[R]:
        """Compute the parts that are missing; return the records of all, in order.

        Args:
            worker: class of the workers; they record each part before they return it.
            config: number, resources and dtype of the workers.
            inputs: the input of every part.
            finished: records of the parts that need not be computed.
            arguments: constructor arguments of the worker class, besides `job`.
            operation: names the work in error messages.
            executor: runs the workers.
            progress: reports the progress.
            check: called after each part, to stop work that has become useless.

        Raises:
            RaycolError: a worker raised it, or failed otherwise; `check` raised it.
        """
        progress.start()
        records = dict(finished)
        missing = {number: input_ for number, input_ in enumerate(inputs) if number not in records}
        arguments = {"job": self, **arguments}
        for number, record in executor.run(worker, config, missing, arguments, operation, progress.within_parts):
            records[number] = record
            if check:
                check()
            progress.add(number, record)
        return [records[number] for number in range(len(inputs))]

    def remove(self) -> None:
        """Delete the records, and all else in the folder."""
        with writing(self.store):
            self.store.remove(self.folder)

    def _write(self, name: int | str, record: bytes) -> None:
        with writing(self.store):
            self.store.write(self._path(name), seal(record))

    def _path(self, name: int | str) -> str:
        return f"{self.folder}/{name if isinstance(name, str) else f'{name:08d}'}.json"


def _is_part(name: str) -> bool:
    return name.removesuffix(".json").isdigit()


def _read(store: Store, name: str) -> bytes | None:
    """Return the content of a sealed file; None if it is missing or damaged."""
    try:
        return unseal(store.read(name, _MAX_RECORD_BYTES))
    except (OSError, ValueError):  # an outage of an object store raises another error
        return None


class PartWorker(Worker[I, R]):
    """Computes parts of a job, and records each one before it returns.

    Args:
        job: the job.
    """

    def __init__(self, job: PartitionedJob[R]) -> None:
        self.job = job

    def compute(self, number: int, input_: I) -> R:
        """Compute a part and write its files; return its record."""
        raise NotImplementedError

    def work(self, number: int, input_: I) -> R:
        """Compute and record a part."""
        record = self.compute(number, input_)
        self.job.save(number, record)
        release_memory()
        return record
