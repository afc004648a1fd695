"""A partition: consecutive documents, quantised, with the inverted lists over their tokens.

A partition is a pure function of its documents in order and the codebook. Its folder is named after its
contents and never changes.

Files (N documents, T tokens, K centroids, B residual bytes a token):
    offsets.npy        int64  [N + 1]  first token of each document
    codes.npy          uint32 [T]      centroid of each token
    residuals.npy      uint8  [T, B]   packed residual levels
    scales.npy         float16 [T]     length correction
    list_offsets.npy   int64  [K + 1]  first entry of each centroid's list
    list_tokens.npy    uint32 [T]      token numbers by centroid, ascending within a list
    documents.parquet  id and metadata columns, one row a document
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError, InputError, writing
from raycol.index.codebook import Codebook, TokenCodes
from raycol.index.document import COLUMN_TYPES, ColumnType, Document, check_document
from raycol.index.manifest import PARTITIONS, PartitionInfo
from raycol.index.storage import (
    Files,
    check_length,
    content_name,
    describe_file,
    finish_folder,
    open_array,
    save_array,
    unfinished_folder,
)

Columns = Mapping[str, ColumnType]

_ARROW_TYPES = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
_DOCUMENTS = "documents.parquet"
# Documents are quantised in groups of about this many tokens: large enough for the matrix product.
_QUANTISE_TOKENS = 8192


def infer_columns(documents: Iterable[Mapping[str, Any]]) -> dict[str, ColumnType]:
    """Column types of checked metadata, from the first value found in each column."""
    columns: dict[str, ColumnType] = {}
    for metadata in documents:
        for name, value in metadata.items():
            if value is not None:
                columns.setdefault(name, COLUMN_TYPES[type(value)])
    return columns


def check_columns(id_: str, metadata: Mapping[str, Any], columns: Columns) -> None:
    """Raise `InputError` where a document's metadata does not fit the index's columns."""
    for name, value in metadata.items():
        if value is None:
            continue
        if name not in columns:
            raise InputError(f"document {id_!r}: metadata {name!r} is not a column of this index")
        if COLUMN_TYPES.get(type(value)) != columns[name]:
            raise InputError(
                f"document {id_!r}: metadata {name!r} is a {type(value).__name__}; the column holds {columns[name]}"
            )


def write_partition(root: Path, documents: Iterable[Document], codebook: Codebook, columns: Columns) -> PartitionInfo:
    """Quantise documents into a new partition of the index at `root`; it is no part of it until committed.

    Raises:
        InputError: an unusable document, by its id, or no documents at all.
    """
    ids: list[str] = []
    metadata: list[Mapping[str, Any]] = []
    lengths: list[int] = []
    coded: list[TokenCodes] = []
    waiting: list[NDArray[np.float32]] = []
    n_waiting = 0
    for document in documents:
        tokens_TD = check_document(document, codebook.dim)
        ids.append(document.id)
        metadata.append(document.metadata)
        lengths.append(len(tokens_TD))
        waiting.append(tokens_TD)
        n_waiting += len(tokens_TD)
        if n_waiting >= _QUANTISE_TOKENS:
            coded.append(codebook.quantise(np.concatenate(waiting)))
            waiting, n_waiting = [], 0
    if waiting:
        coded.append(codebook.quantise(np.concatenate(waiting)))
    if not ids:
        raise InputError("no documents; expected at least one")
    tokens = TokenCodes(*(np.concatenate(arrays) for arrays in zip(*coded, strict=True)))
    table = _document_table(ids, metadata, columns)

    with unfinished_folder(root / PARTITIONS) as folder, writing(root):
        files: Files = {
            name: save_array(folder / name, array)
            for name, array in _arrays(np.array(lengths), tokens, codebook.n_centroids).items()
        }
        pq.write_table(table, folder / _DOCUMENTS, compression="zstd")
        files[_DOCUMENTS] = describe_file(folder / _DOCUMENTS)
        id_ = content_name(files)
        finish_folder(folder, root / PARTITIONS / id_)
    return PartitionInfo(id=id_, documents=len(ids), tokens=len(tokens.codes_T), files=files)


def _arrays(lengths_N: NDArray[np.int64], tokens: TokenCodes, n_centroids: int) -> dict[str, NDArray[Any]]:
    order_T = np.argsort(tokens.codes_T, kind="stable")
    sizes_K = np.bincount(tokens.codes_T, minlength=n_centroids)
    return {
        "offsets.npy": np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64),
        "codes.npy": tokens.codes_T,
        "residuals.npy": tokens.residuals_TB,
        "scales.npy": tokens.scales_T,
        "list_offsets.npy": np.concatenate([[0], np.cumsum(sizes_K)]).astype(np.int64),
        "list_tokens.npy": order_T.astype(np.uint32),
    }


def _document_table(ids: list[str], metadata: list[Mapping[str, Any]], columns: Columns) -> pa.Table:
    for id_, values in zip(ids, metadata, strict=True):
        check_columns(id_, values, columns)
    arrays = [pa.array(ids, pa.string())]
    arrays += [
        pa.array([values.get(name) for values in metadata], _ARROW_TYPES[kind]) for name, kind in columns.items()
    ]
    return pa.table(arrays, names=["id", *columns])


@dataclass(frozen=True)
class Partition:
    """A partition opened for reading; arrays are memory-mapped."""

    folder: Path
    info: PartitionInfo
    columns: Columns
    offsets_N: NDArray[np.int64]
    codes_T: NDArray[np.uint32]
    residuals_TB: NDArray[np.uint8]
    scales_T: NDArray[np.float16]
    list_offsets_K: NDArray[np.int64]
    list_tokens_T: NDArray[np.uint32]

    @classmethod
    def open(cls, root: Path, info: PartitionInfo, codebook: Codebook, columns: Columns) -> Partition:
        """Open a partition that a manifest names.

        Raises:
            IndexCorruptError: a file is missing, or not of the promised length, type or shape.
        """
        folder = root / PARTITIONS / info.id
        n, t = info.documents, info.tokens
        width = codebook.dim * codebook.bits // 8
        check_length(folder / _DOCUMENTS, info.files.get(_DOCUMENTS))

        def array(name: str, dtype: Any, *shape: int) -> NDArray[Any]:
            return open_array(folder, name, info.files, dtype, shape)

        partition = cls(
            folder=folder,
            info=info,
            columns=columns,
            offsets_N=array("offsets.npy", np.int64, n + 1),
            codes_T=array("codes.npy", np.uint32, t),
            residuals_TB=array("residuals.npy", np.uint8, t, width),
            scales_T=array("scales.npy", np.float16, t),
            list_offsets_K=array("list_offsets.npy", np.int64, codebook.n_centroids + 1),
            list_tokens_T=array("list_tokens.npy", np.uint32, t),
        )
        partition._check_bounds(codebook.n_centroids)
        return partition

    def _check_bounds(self, n_centroids: int) -> None:
        """Raise `IndexCorruptError` where a number would lead a kernel outside its arrays."""
        t = self.info.tokens
        for name, offsets in (("offsets.npy", self.offsets_N), ("list_offsets.npy", self.list_offsets_K)):
            # Compared, not subtracted: differences of hostile numbers wrap around.
            if offsets[0] != 0 or offsets[-1] != t or (offsets[1:] < offsets[:-1]).any():
                raise IndexCorruptError(f"{self.folder / name}: does not ascend from 0 to {t}")
        if (self.offsets_N[1:] == self.offsets_N[:-1]).any():
            raise IndexCorruptError(f"{self.folder / 'offsets.npy'}: a document without tokens")
        for name, numbers, limit in (
            ("codes.npy", self.codes_T, n_centroids),
            ("list_tokens.npy", self.list_tokens_T, t),
        ):
            if t and numbers.max() >= limit:
                raise IndexCorruptError(f"{self.folder / name}: holds {numbers.max()}; expected less than {limit}")

    @cached_property
    def ids(self) -> list[str]:
        """The documents' ids, in order."""
        column = self._read(["id"]).column("id")
        if column.type != pa.string() or column.null_count:
            raise IndexCorruptError(f"{self.folder / _DOCUMENTS}: ids of type {column.type}; expected strings")
        ids: list[str] = column.to_pylist()
        return ids

    @cached_property
    def metadata(self) -> pa.Table:
        """The documents' metadata, in order."""
        return self._read(list(self.columns))

    def tokens(self, document: int) -> TokenCodes:
        """The stored tokens of one document, by its position."""
        start, stop = self.offsets_N[document], self.offsets_N[document + 1]
        return TokenCodes(self.codes_T[start:stop], self.residuals_TB[start:stop], self.scales_T[start:stop])

    def _read(self, columns: list[str]) -> pa.Table:
        path = self.folder / _DOCUMENTS
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise IndexCorruptError(f"{path}: not the Parquet table promised ({error})") from None
        if table.column_names != columns or (columns and table.num_rows != self.info.documents):
            raise IndexCorruptError(f"{path}: not the {self.info.documents} rows of {columns} promised")
        return table
