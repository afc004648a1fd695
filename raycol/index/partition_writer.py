"""Writing partitions: from documents, or from tokens that are quantised already (compaction)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raycol.errors import InputError, writing
from raycol.index.codebook import Codebook, TokenCodes, mean_error
from raycol.index.columns import Columns, check_columns, metadata_table
from raycol.index.document import Document, check_document
from raycol.index.ids import id_arrays
from raycol.index.manifest import PARTITIONS, PartitionInfo
from raycol.index.partition import DOCUMENTS, ROW_GROUP
from raycol.index.storage import Files, Store, content_name, save_array
from raycol.index.storage.files import ChecksumWriter

# Documents are quantised in groups of about this many tokens: large enough for the search among centroids.
_QUANTISE_TOKENS = 65536


def write_partition(
    store: Store, documents: Iterable[Document], codebook: Codebook, columns: Columns, base: int = 0
) -> PartitionInfo:
    """Quantise documents into a new partition; it is no part of the index until a manifest names it.

    Args:
        store: the index.
        documents: at least one; they are checked.
        codebook: the index's codebook.
        columns: the index's metadata columns.
        base: the version that the writer started from, 0 for a new index.

    Raises:
        InputError: an unusable document, by its id, or no documents at all.
    """
    ids: list[str] = []
    metadata: list[Mapping[str, Any]] = []
    lengths: list[int] = []
    coded: list[TokenCodes] = []
    cosines: list[NDArray[np.float32]] = []
    waiting: list[NDArray[np.float32]] = []
    n_waiting = 0

    def quantise() -> None:
        tokens, cosines_T = codebook.quantise(np.concatenate(waiting))
        coded.append(tokens)
        cosines.append(cosines_T)
        waiting.clear()

    for unchecked in documents:
        document = check_document(unchecked, codebook.dim)
        check_columns(document.id, document.metadata, columns)
        ids.append(document.id)
        metadata.append(document.metadata)
        lengths.append(len(document.embeddings))
        waiting.append(document.embeddings)
        n_waiting += len(document.embeddings)
        if n_waiting >= _QUANTISE_TOKENS:
            quantise()
            n_waiting = 0
    if waiting:
        quantise()
    if not ids:
        raise InputError("no documents; expected at least one")
    return save_partition(
        store,
        ids,
        metadata_table(metadata, columns),
        np.array(lengths),
        concatenate_tokens(coded),
        mean_error(np.concatenate(cosines)),
        codebook.n_centroids,
        base,
    )


def concatenate_tokens(parts: Sequence[TokenCodes]) -> TokenCodes:
    """Tokens of several pieces, one after the other."""
    return TokenCodes(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def save_partition(
    store: Store,
    ids: Sequence[str],
    metadata: pa.Table,
    lengths_N: NDArray[np.int64],
    tokens: TokenCodes,
    error: float,
    n_centroids: int,
    base: int,
) -> PartitionInfo:
    """Write the files of a partition and give its folder its name."""
    n_tokens = len(tokens.codes_T)
    if n_tokens >= 2**32:
        raise InputError(f"{n_tokens} tokens in one partition; expected fewer than 2^32. Choose smaller partitions")
    order_T = np.argsort(tokens.codes_T, kind="stable")
    sizes_K = np.bincount(tokens.codes_T, minlength=n_centroids)
    arrays = {
        "offsets.npy": np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64),
        "codes.npy": tokens.codes_T,
        "residuals.npy": tokens.residuals_TB,
        "gains.npy": tokens.gains_T,
        "scales.npy": tokens.scales_T,
        "list_offsets.npy": np.concatenate([[0], np.cumsum(sizes_K)]).astype(np.uint32),
        "list_documents.npy": np.repeat(np.arange(len(ids), dtype=np.uint32), lengths_N)[order_T],
        **id_arrays(ids),
    }
    with store.workspace(base) as workspace, writing(store):
        folder = workspace / "partition"
        folder.mkdir()
        files: Files = {name: save_array(folder / name, array) for name, array in arrays.items()}
        if metadata.num_columns:
            with ChecksumWriter(folder / DOCUMENTS) as file:
                pq.write_table(metadata, file, row_group_size=ROW_GROUP, compression="zstd", store_schema=False)
            files[DOCUMENTS] = file.info
        name = content_name(base, files)
        store.publish(folder, f"{PARTITIONS}/{name}", files)
    return PartitionInfo(
        name=name,
        documents=len(ids),
        tokens=n_tokens,
        id_bytes=len(arrays["id_bytes.npy"]),
        error=error,
        files=files,
    )
