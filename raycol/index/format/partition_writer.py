"""Writes partitions, from documents or from quantised tokens (compaction)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raycol.errors import InputError, writing
from raycol.index.codec.codebook import mean_error
from raycol.index.codec.protocol import Codec, TokenCodes
from raycol.index.format import lists
from raycol.index.format.columns import Columns, check_columns, metadata_table
from raycol.index.format.document import Document, check_document
from raycol.index.format.ids import id_arrays
from raycol.index.format.manifest import PARTITIONS, PartitionInfo, TableInfo
from raycol.index.format.partition import BATCH_ROWS, FILE, LIST_OFFSETS, LISTS, METADATA, OFFSETS, ROW_GROUP
from raycol.storage.checked_files import content_name
from raycol.storage.sectioned_file import save_sections
from raycol.storage.store import Store

# Tokens to quantise at a time: large enough to keep the nearest-centroid search efficient.
_QUANTISE_TOKENS = 65536


def write_partition(
    store: Store, documents: Iterable[Document], codec: Codec, columns: Columns, base: int = 0
) -> PartitionInfo:
    """Quantise documents into a new partition and return its manifest entry; a commit makes it part of the index.

    Args:
        store: the index.
        documents: at least one; this function validates them.
        codec: the index's codebook.
        columns: the index's metadata columns.
        base: the version that the writer started from, 0 for a new index.

    Raises:
        InputError: no documents, or an invalid document (named).
    """
    ids: list[str] = []
    metadata: list[Mapping[str, Any]] = []
    quantiser = Quantiser(codec)
    for unchecked in documents:
        document = check_document(unchecked, codec.dim)
        check_columns(document.id, document.metadata, columns)
        ids.append(document.id)
        metadata.append(document.metadata)
        quantiser.add(document.embeddings)
    if not ids:
        raise InputError("no documents; expected at least one")
    tokens, error = quantiser.finish()
    lengths_N = np.array(quantiser.lengths)
    return save_partition(
        store, ids, metadata_table(metadata, columns), lengths_N, tokens, error, codec.n_centroids, base
    )


class Quantiser:
    """Quantises a stream of documents in batches of tokens; keeps only their codes.

    `lengths` is the number of tokens of each document so far, `dim` the dimension of their embeddings.
    """

    def __init__(self, codec: Codec) -> None:
        self.lengths: list[int] = []
        self.dim = codec.dim
        self._codec = codec
        self._batches: list[TokenCodes] = []
        self._cosines: list[NDArray[np.float32]] = []
        self._pending: list[NDArray[np.float32]] = []
        self._n_pending = 0

    def add(self, embeddings_TD: NDArray[np.float32]) -> None:
        """Add the tokens of one document."""
        self.lengths.append(len(embeddings_TD))
        self._pending.append(embeddings_TD)
        self._n_pending += len(embeddings_TD)
        if self._n_pending >= _QUANTISE_TOKENS:
            self._quantise()

    def finish(self) -> tuple[TokenCodes, float]:
        """Return the codes of all tokens and their mean error (see `PartitionInfo`)."""
        if self._pending:
            self._quantise()
        return TokenCodes.concatenate(self._batches), mean_error(np.concatenate(self._cosines))

    def _quantise(self) -> None:
        tokens, cosines_T = self._codec.quantise(np.concatenate(self._pending))
        self._batches.append(tokens)
        self._cosines.append(cosines_T)
        self._pending.clear()
        self._n_pending = 0


def reorder_tokens(tokens: TokenCodes, lengths_N: NDArray[np.int64], order_N: NDArray[np.int64]) -> TokenCodes:
    """Return the tokens with their documents permuted: document order_N[0] first, and so on."""
    starts_N = np.cumsum(lengths_N) - lengths_N
    moved_N = lengths_N[order_N]
    ends_N = np.cumsum(moved_N)
    token_T = np.arange(ends_N[-1]) + np.repeat(starts_N[order_N] - (ends_N - moved_N), moved_N)
    return tokens.take(token_T)


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
    """Write a partition's file, publish its folder under its content name, and return its manifest entry."""
    n_tokens = len(tokens.codes_T)
    if n_tokens >= 2**32:
        raise InputError(f"{n_tokens} tokens in one partition; expected fewer than 2^32. Lower partition_tokens")
    id_sections = id_arrays(ids)
    sections: dict[str, NDArray[Any]] = dict(tokens.arrays)
    if n_tokens >= lists.STORED_TOKENS:
        sections[LIST_OFFSETS], sections[LISTS] = lists.encode_lists(tokens.codes_T, lengths_N, n_centroids)
    sections |= {OFFSETS: np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64), **id_sections}
    if metadata.num_columns:
        sections[METADATA] = _parquet(metadata)
    with store.workspace(base) as workspace, writing(store):
        folder = workspace / "partition"
        folder.mkdir()
        info, table = save_sections(folder / FILE, sections)
        name = content_name(base, files := {FILE: info})
        store.publish(folder, f"{PARTITIONS}/{name}", files)
    return PartitionInfo(
        name=name,
        documents=len(ids),
        tokens=n_tokens,
        id_bytes=len(id_sections["id_bytes"]),
        error=error,
        files=files,
        table=TableInfo(**table.model_dump()),
    )


def _parquet(metadata: pa.Table) -> NDArray[np.uint8]:
    with pa.BufferOutputStream() as stream:
        pq.write_table(
            metadata,
            stream,
            row_group_size=ROW_GROUP,
            # Arrow checks the page size of 1 MB after each batch of rows: small batches keep pages small.
            write_batch_size=BATCH_ROWS,
            compression="zstd",
            store_schema=False,
        )
        return np.frombuffer(stream.getvalue(), np.uint8)
