"""Documents of duplicate ids in a corpus of any size, found by hashes of their ids in files.

Each range of the corpus has a file of 8-byte hashes (XXH3), in its order. Hashes of a few million documents are
compared on the driver. More are divided by their value, in tasks: those of a group of files are written to one file
for each interval of values, and the files of an interval are compared. So the memory of a task grows only with the
number of repeated ids. A hash that occurs twice is only a suspicion: the ids themselves decide.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.data import Fields
from raycol.distributed.executor import Executor, WorkersConfig
from raycol.errors import RaycolError, writing
from raycol.indexing.plan import PartitionPlan, positions_of, repeated_values, scan_part
from raycol.storage import Store, StoredFolder
from raycol.storage.checked_files import describe_bytes

# Hashes that the driver, or a task, has in memory; a few copies of 8 bytes each.
GROUP_IDS = 1 << 23
_TASK_BYTES = 1 << 29
_DTYPE = np.dtype("<u8")


class IdHashes(BaseModel):
    """A file of hashes: the folder that it is in, and how many."""

    model_config = ConfigDict(frozen=True)

    stored: StoredFolder
    n_ids: int


@dataclass(frozen=True)
class Repeated:
    """A document whose id may occur twice: the ordinal of its part, the slice and line (row) in it, and the id."""

    part: int
    slice: int
    number: int
    id: str


@dataclass(frozen=True)
class RangeIds:
    """The hashes of a range, and its parts, of which the first has the ordinal `first_part`."""

    hashes: IdHashes
    first_part: int
    parts: tuple[PartitionPlan, ...]


def save_hashes(store: Store, folder: str, name: str, hashes: array[int] | NDArray[np.uint64]) -> IdHashes:
    """Write hashes to a file of a folder."""
    content = np.asarray(hashes, dtype=_DTYPE).tobytes()
    with writing(store):
        store.write(f"{folder}/{name}.ids", content)
    stored = StoredFolder(folder=folder, files={f"{name}.ids": describe_bytes(content)})
    return IdHashes(stored=stored, n_ids=len(content) // _DTYPE.itemsize)


def _read_hashes(store: Store, files: Sequence[IdHashes]) -> NDArray[np.uint64]:
    """Return the hashes of files, one after the other."""
    contents = []
    for file in files:
        for name, info in file.stored.files.items():
            path = f"{file.stored.folder}/{name}"
            content = store.read(path, info.bytes)
            if describe_bytes(content) != info:
                raise RaycolError(f"{store.location(path)}: damaged since it was written; run the command again")
            contents.append(np.frombuffer(content, dtype=_DTYPE))
    return np.concatenate(contents) if contents else np.empty(0, dtype=_DTYPE)


def repeated_ids(
    store: Store, folder: str, ranges: Sequence[RangeIds], fields: Fields, executor: Executor, workers: WorkersConfig
) -> Iterator[Repeated]:
    """Yield all documents of ids whose hash occurs more than once, in the order of the corpus.

    Args:
        store, folder: where the tasks write files.
        ranges: the corpus.
        fields: names of its fields.
        executor, workers: run the tasks.
    """
    hashes_R = _repeated_hashes(store, folder, [range_.hashes for range_ in ranges], executor, workers)
    if not len(hashes_R):
        return
    # In a file, since it may be large and every task needs it.
    repeated = save_hashes(store, folder, "repeated", hashes_R)
    calls = {number: (store, range_, repeated, fields) for number, range_ in enumerate(ranges)}
    memory = dict.fromkeys(calls, _TASK_BYTES)
    found = dict(executor.call(_find_repeated, calls, "the plan", workers, memory))
    for number in sorted(found):
        yield from found[number]


def _repeated_hashes(
    store: Store, folder: str, files: Sequence[IdHashes], executor: Executor, workers: WorkersConfig
) -> NDArray[np.uint64]:
    """Return the values that occur more than once in all files, ascending."""
    total = sum(file.n_ids for file in files)
    if total <= GROUP_IDS:
        return repeated_values(_read_hashes(store, files))
    bits = (total // GROUP_IDS).bit_length()
    groups: list[list[IdHashes]] = [[]]
    for file in files:
        if groups[-1] and sum(other.n_ids for other in groups[-1]) + file.n_ids > GROUP_IDS:
            groups.append([])
        groups[-1].append(file)
    calls = {number: (store, folder, number, group, bits) for number, group in enumerate(groups)}
    by_group = dict(executor.call(_divide, calls, "the plan", workers, dict.fromkeys(calls, _TASK_BYTES)))
    intervals = {value: (store, [by_group[number][value] for number in calls]) for value in range(1 << bits)}
    memory = dict.fromkeys(intervals, _TASK_BYTES)
    repeated = dict(executor.call(_repeated_in, intervals, "the plan", workers, memory))
    return np.concatenate([repeated[value] for value in sorted(repeated)])


def _divide(store: Store, folder: str, number: int, files: Sequence[IdHashes], bits: int) -> list[IdHashes]:
    """Write the hashes of a group of files to one file for each interval of values, each value at most twice."""
    sorted_N = np.sort(_read_hashes(store, files))
    again_N = np.concatenate([[False], sorted_N[1:] == sorted_N[:-1]])
    third_N = again_N & np.concatenate([[False], again_N[:-1]])
    sorted_N = sorted_N[~third_N]
    bounds = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    pieces = np.split(sorted_N, np.searchsorted(sorted_N, bounds))
    return [save_hashes(store, folder, f"group-{number}-{value}", piece) for value, piece in enumerate(pieces)]


def _repeated_in(store: Store, files: Sequence[IdHashes]) -> NDArray[np.uint64]:
    return repeated_values(_read_hashes(store, files))


def _find_repeated(store: Store, range_: RangeIds, repeated: IdHashes, fields: Fields) -> list[Repeated]:
    """Return a range's documents of some hashes, ascending."""
    ordinals = set(positions_of(_read_hashes(store, [repeated]), _read_hashes(store, [range_.hashes])))
    found = []
    start = 0
    for offset, part in enumerate(range_.parts):
        wanted = ordinals.intersection(range(start, start + part.documents))
        if wanted:
            for ordinal, (slice_, position, passage) in enumerate(scan_part(part, fields), start=start):
                if ordinal in wanted:
                    found.append(Repeated(range_.first_part + offset, slice_, position.number, passage.id))
        start += part.documents
    return found
