"""Deletes: which documents of a partition are no longer in the index, as a sorted list of positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError, writing
from raycol.index.format.manifest import DELETES, DeletesInfo, PartitionInfo
from raycol.storage import Store, content_name, open_array, save_array

_POSITIONS = "positions.npy"


def write_deletes(
    store: Store, positions: NDArray[np.int64], offsets_N: NDArray[np.int64], partition: str, base: int
) -> DeletesInfo:
    """Write which documents of a partition are gone.

    Args:
        store: the index.
        positions: positions of all documents gone from the partition, ascending.
        offsets_N: the partition's token offsets, int64 [N + 1].
        partition: the partition's name, so that two partitions never share a folder.
        base: the version that the writer started from.
    """
    with store.workspace(base) as folder, writing(store):
        files = {_POSITIONS: save_array(folder / _POSITIONS, positions.astype(np.uint32))}
        name = f"{content_name(base, files)}-{partition}"
        store.publish(folder, f"{DELETES}/{name}", files)
    tokens = int((offsets_N[positions + 1] - offsets_N[positions]).sum())
    return DeletesInfo(name=name, documents=len(positions), tokens=tokens, files=files)


def open_deletes(store: Store, info: PartitionInfo) -> NDArray[np.uint32]:
    """Positions of the documents gone from a partition, uint32, ascending. Read and checked whole."""
    gone = info.deletes
    if gone is None:
        return np.empty(0, dtype=np.uint32)
    folder = store.checked(f"{DELETES}/{gone.name}", gone.files)
    positions = np.array(open_array(folder, _POSITIONS, gone.files, np.uint32, (gone.documents,)))
    if positions[-1] >= info.documents or (positions[1:] <= positions[:-1]).any():
        raise IndexCorruptError(f"{folder / _POSITIONS}: expected positions under {info.documents}, ascending")
    return positions
