"""Deletes of a partition: the sorted positions of its deleted documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError, writing
from raycol.index.format.manifest import DELETES, DeletesInfo, PartitionInfo
from raycol.storage.checked_files import content_name, open_array, save_array
from raycol.storage.store import Store

_POSITIONS = "positions.npy"


def write_deletes(
    store: Store, positions: NDArray[np.int64], offsets_N: NDArray[np.int64], partition: str, base: int
) -> DeletesInfo:
    """Write the deletes of a partition and return their manifest entry.

    Args:
        store: the index.
        positions: all deleted documents of the partition, earlier deletes included; ascending.
        offsets_N: the partition's token offsets, int64 [N + 1].
        partition: the partition's name; part of the folder's name, so that two partitions never share a folder.
        base: the version that the writer started from.
    """
    with store.workspace(base) as folder, writing(store):
        files = {_POSITIONS: save_array(folder / _POSITIONS, positions.astype(np.uint32))}
        name = f"{content_name(base, files)}-{partition}"
        store.publish(folder, f"{DELETES}/{name}", files)
    tokens = int((offsets_N[positions + 1] - offsets_N[positions]).sum())
    return DeletesInfo(name=name, documents=len(positions), tokens=tokens, files=files)


def open_deletes(store: Store, info: PartitionInfo) -> NDArray[np.uint32]:
    """Return the positions of a partition's deleted documents, uint32, ascending; checks the whole file."""
    deletes = info.deletes
    if deletes is None:
        return np.empty(0, dtype=np.uint32)
    folder = store.checked(f"{DELETES}/{deletes.name}", deletes.files)
    positions = np.array(open_array(folder, _POSITIONS, deletes.files, np.uint32, (deletes.documents,)))
    if positions[-1] >= info.documents or (positions[1:] <= positions[:-1]).any():
        raise IndexCorruptError(f"{folder / _POSITIONS}: expected ascending positions below {info.documents}")
    return positions
