"""Document ids of a partition: ids by position and positions by id, from memory-mapped arrays.

Ids are concatenated UTF-8. A search for an id bisects the sorted hashes of all ids, then compares the id itself: the
upper 32 bits of a hash are enough to find it among the documents of one partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.errors import InputError


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit XXH3 hashes of ids, uint64 [N]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids), dtype=np.uint64)


def id_arrays(ids: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a partition's ids, by section. Raises `InputError` if they are longer than 4 GiB."""
    encoded = [id_.encode() for id_ in ids]
    ends_N = np.cumsum([len(id_) for id_ in encoded])
    if ends_N[-1] >= 2**32:
        raise InputError(
            f"ids of {ends_N[-1]} bytes in one partition; expected fewer than 2^32. Lower partition_tokens"
        )
    hashes_N = id_hashes(ids)
    order_N = np.argsort(hashes_N, kind="stable")
    return {
        "id_bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "id_offsets": np.concatenate([[0], ends_N]).astype(np.uint32),
        "id_hashes": _upper(hashes_N[order_N]),
        "id_positions": order_N.astype(np.uint32),
    }


@dataclass(frozen=True)
class Ids:
    """The ids of one partition.

    Sections: id_bytes uint8, id_offsets uint32 [N + 1], id_hashes uint32 [N], the upper halves of `id_hashes`,
    ascending, and id_positions uint32 [N], the document position of each hash.
    """

    bytes_: NDArray[np.uint8]
    offsets_N: NDArray[np.uint32]
    hashes_N: NDArray[np.uint32]
    positions_N: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.hashes_N)

    def __getitem__(self, position: int) -> str:
        return bytes(self.bytes_[self.offsets_N[position] : self.offsets_N[position + 1]]).decode()

    def take(self, positions_M: NDArray[np.int64]) -> list[str]:
        """Return the ids at the given positions."""
        starts, stops = self.offsets_N[positions_M].tolist(), self.offsets_N[positions_M + 1].tolist()
        return [self.bytes_[start:stop].tobytes().decode() for start, stop in zip(starts, stops, strict=True)]

    def are_utf8(self) -> bool:
        """Whether every id is valid UTF-8: the concatenation is, and no id starts within a character."""
        try:
            bytes(self.bytes_).decode()
        except UnicodeDecodeError:
            return False
        return bool((self.bytes_[self.offsets_N[:-1]] & 0xC0 != 0x80).all())

    def find(self, ids: Sequence[str], hashes_M: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each id, or -1 for an id of no document: int64 [M].

        Args:
            ids: ids to find.
            hashes_M: their `id_hashes`.
        """
        positions_M = np.full(len(ids), -1, dtype=np.int64)
        upper_M = _upper(hashes_M)
        first_M = np.searchsorted(self.hashes_N, upper_M)
        clipped_M = np.minimum(first_M, len(self) - 1)
        for m in np.flatnonzero(self.hashes_N[clipped_M] == upper_M).tolist():
            entry = int(first_M[m])
            while entry < len(self) and self.hashes_N[entry] == upper_M[m]:  # hashes may collide
                position = int(self.positions_N[entry])
                if self[position] == ids[m]:
                    positions_M[m] = position
                    break
                entry += 1
        return positions_M


def has_any(hashes_N: NDArray[np.uint32], hashes_M: NDArray[np.uint64]) -> bool:
    """Whether any of some `id_hashes` is among those of a partition, which are ascending."""
    upper_M = _upper(hashes_M)
    first_M = np.minimum(np.searchsorted(hashes_N, upper_M), len(hashes_N) - 1)
    return bool((hashes_N[first_M] == upper_M).any())


def _upper(hashes_M: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return (hashes_M >> np.uint64(32)).astype(np.uint32)
