"""Migration: write an index of format version 2 again as one of the present version, without encoding or quantising.

Version 2 kept each array of a partition in a .npy file of its own, and lists with an entry a token. Codes, residuals,
gains and scales are the same bytes, so hits and scores are, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import FailFast

from raycol.errors import IndexCorruptError
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.protocol import TokenCodes
from raycol.index.format.codebook_files import open_codebook, save_codebook
from raycol.index.format.columns import Columns, check_table, schema_of
from raycol.index.format.deletes import open_deletes
from raycol.index.format.manifest import (
    MIGRATED_VERSION,
    PARTITIONS,
    Manifest,
    PartitionInfo,
    commit_manifest,
    read_manifest_as,
    writing_from,
)
from raycol.index.format.partition_writer import save_partition
from raycol.index.write.create import check_new
from raycol.storage.checked_files import open_array
from raycol.storage.store import Store


class _Partition(PartitionInfo):
    table: None = None  # type: ignore[assignment]


class _Manifest(Manifest):
    partitions: Annotated[tuple[_Partition, ...], FailFast()]  # type: ignore[assignment]


def migrate(old: Store, new: Store, report: Callable[[float, float | None, str], None]) -> Manifest:
    """Write the newest version of an index of format version 2 to a new location, without its deleted documents.

    Raises:
        InputError: no index of that format version, or `new` already holds one.
        IndexCorruptError: a file does not match the manifest.
    """
    before = read_manifest_as(_Manifest, MIGRATED_VERSION, old)
    check_new(new)
    try:
        with writing_from(new, 0):
            codebook = open_codebook(old, before.codebook, before.dim, before.bits)
            partitions: list[PartitionInfo] = []
            for number, info in enumerate(before.partitions):
                report(number, len(before.partitions), "migrating partitions")
                if info.live_documents:
                    partitions.append(_rewrite(old, new, info, codebook, before.columns))
            kept = before.model_dump(exclude={"version", "codebook", "partitions"})
            manifest = Manifest(**kept, version=1, codebook=save_codebook(new, codebook), partitions=tuple(partitions))
        commit_manifest(new, manifest)
    except BaseException:
        new.remove_if_empty()
        raise
    return manifest


def _rewrite(old: Store, new: Store, info: _Partition, codebook: Codebook, columns: Columns) -> PartitionInfo:
    name = f"{PARTITIONS}/{info.name}"
    folder = old.checked(name, info.files)
    documents, tokens = info.documents, info.tokens

    def array(file: str, dtype: Any, *shape: int) -> NDArray[Any]:
        return open_array(folder, f"{file}.npy", info.files, dtype, shape)

    offsets_N = array("offsets", np.int64, documents + 1)
    id_offsets_N = array("id_offsets", np.int64, documents + 1)
    id_bytes = array("id_bytes", np.uint8, info.id_bytes)
    layout = codebook.token_layout
    stored = TokenCodes({key: array(key, dtype, tokens, *shape) for key, (dtype, shape) in layout.items()})
    live_N = np.ones(documents, dtype=bool)
    live_N[open_deletes(old, info)] = False
    for key, offsets, end in (("offsets", offsets_N, tokens), ("id_offsets", id_offsets_N, info.id_bytes)):
        if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] <= offsets[:-1]).any():
            raise IndexCorruptError(f"{folder / key}.npy: expected offsets ascending from 0 to {end}")
    if stored.codes_T.max() >= codebook.n_centroids or codebook.damage(stored):
        raise IndexCorruptError(f"{folder}: holds codes or scales out of range")
    edges = id_offsets_N.tolist()
    positions = np.flatnonzero(live_N)
    try:
        ids = [id_bytes[edges[n] : edges[n + 1]].tobytes().decode() for n in positions.tolist()]
        metadata = schema_of({}).empty_table()
        if columns:
            with pq.ParquetFile(folder / "documents.parquet") as file:
                metadata = check_table(file.read(), documents)
            if not metadata.schema.equals(schema_of(columns)):
                raise pa.ArrowInvalid(f"its columns are not {list(columns)}")
            metadata = metadata.filter(pa.array(live_N)).combine_chunks()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IndexCorruptError(f"{folder}: invalid ids or metadata ({error})") from None
    lengths_N = np.diff(offsets_N)
    kept = stored.take(np.repeat(live_N, lengths_N))
    return save_partition(new, ids, metadata, lengths_N[live_N], kept, info.error, codebook.n_centroids, 0)
