"""`Partition`: a run of quantised documents and the inverted lists over their tokens, opened for reading.

A partition is a pure function of its documents, their order and the codebook. Its folder is immutable; deletes are
stored separately (`deletes`).

One file holds everything, in these sections (N documents, T tokens, K centroids, B residual bytes per token):
    codes            uint16 [T]      centroid of each token (uint32 if K > 65,536)
    residuals        uint8 [T, B]    packed residual levels
    gains            uint8 [T]       step size of each token's residual
    scales           float16 [T]     norm correction
    list_offsets     uint16 [K + 1]  first byte of each centroid's list (uint32 if they have 65,536 bytes or more)
    lists            uint8           the documents of each centroid (see `lists`); both absent from small partitions
    offsets          int64 [N + 1]   first token of each document
    id_*             (see `ids`)
    metadata         a Parquet table, one row per document; absent if the index has no columns
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError
from raycol.index.codec.protocol import CODES, Codec, TokenCodes
from raycol.index.format.columns import Columns, check_table, schema_of
from raycol.index.format.deletes import open_deletes
from raycol.index.format.ids import Ids, has_any
from raycol.index.format.lists import Lists, encode_lists, offset_dtype
from raycol.index.format.manifest import PARTITIONS, PartitionInfo
from raycol.index.kernels.lists import invalid_list
from raycol.storage.sectioned_file import Section, SectionedFile
from raycol.storage.store import Store

FILE = "partition.bin"
LIST_OFFSETS, LISTS, OFFSETS, METADATA = "list_offsets", "lists", "offsets", "metadata"
# Rows per Parquet row group, the unit of reading and caching.
ROW_GROUP = 512

# LRU cache of row groups, shared by all partitions and threads of the process.
_ROWS_BYTES = 32 << 20
_ROWS: LRUCache[tuple[object, int], pa.Table] = LRUCache(_ROWS_BYTES, getsizeof=lambda table: table.nbytes)
_ROWS_LOCK = threading.Lock()
_JOINING = threading.Lock()
# Properties of what is mapped.
_MAPPED = ("offsets_N", "tokens", "list_offsets_K", "lists", "search_arrays", "ids")
# Rows written and read at a time: a row group of long texts may take hundreds of megabytes.
BATCH_ROWS = 16

# The sections that deleting and upserting read; they are neighbours in the file.
ID_HASHES = "id_hashes"
_ID_SECTIONS = (OFFSETS, "id_bytes", "id_offsets", ID_HASHES, "id_positions")
# Of an object store's partitions with fewer documents, all about the ids is downloaded together: about a megabyte.
_MANY_DOCUMENTS = 1 << 15


class Partition:
    """A partition opened for reading; maps its file into memory on first use.

    Call `check` before reading token arrays: the first call reads the whole file. `find`, `rows`, `metadata` and
    `column_arrays` check their own sections.
    """

    def __init__(
        self,
        store: Store,
        info: PartitionInfo,
        codec: Codec,
        columns: Columns,
        deleted: NDArray[np.uint32],
        *,
        trusted: bool,
    ) -> None:
        self.info = info
        self.columns = columns
        self.deleted = deleted
        self._store = store
        self.codec = codec
        self._trusted = trusted
        if FILE not in info.files:
            raise IndexCorruptError(f"{store.location(self._name)}: the manifest does not list {FILE}")
        self._file = SectionedFile(store, self._name, FILE, info.files[FILE], info.table)
        self._verified: set[str] = set()
        self._unchecked = {"ids", "tokens", "all"}
        self._columns_read: dict[str, pa.ChunkedArray] = {}
        # Identity, not the name: an index that was built again may have partitions of the same names.
        self._identity = object()
        self._joined: tuple[tuple[object, ...], Lists] | None = None

    @classmethod
    def open(
        cls, store: Store, info: PartitionInfo, codec: Codec, columns: Columns, *, trusted: bool = False
    ) -> Partition:
        """Open a partition; of a local one check the lengths of its file and sections, not their contents.

        Args:
            store: the index.
            info: the manifest's entry.
            codec: the index's codebook.
            columns: the index's metadata columns.
            trusted: skip checksums; `check` only bounds-checks offsets and ordinals.

        Raises:
            IndexCorruptError: a file is missing, or a length differs from the manifest's.
        """
        partition = cls(store, info, codec, columns, open_deletes(store, info), trusted=trusted)
        if store.is_local:  # an object store would have to download them
            partition._check_sections()
        return partition

    def with_deletes(self, info: PartitionInfo) -> Partition:
        """Return this partition with the deletes of another version's `info`; shares opened and checked arrays."""
        changed = copy.copy(self)
        changed.info = info
        changed.deleted = open_deletes(self._store, info)
        changed.__dict__.pop("live_N", None)
        return changed

    @cached_property
    def offsets_N(self) -> NDArray[np.int64]:  # noqa: N802
        """First token of each document, int64 [N + 1]."""
        return self._array(OFFSETS, np.int64, self.info.documents + 1)

    @cached_property
    def tokens(self) -> TokenCodes:
        """Quantised tokens of all documents."""
        layout = self.codec.token_layout
        return TokenCodes(
            {name: self._array(name, dtype, self.info.tokens, *shape) for name, (dtype, shape) in layout.items()}
        )

    @property
    def has_lists(self) -> bool:
        """Whether the partition has lists of its own."""
        return LISTS in self.sections

    @cached_property
    def list_offsets_K(self) -> NDArray[np.unsignedinteger[Any]]:  # noqa: N802
        """First byte of each centroid's list, uint16 or uint32 [K + 1]."""
        return self._array(LIST_OFFSETS, offset_dtype(len(self.lists)), self.codec.n_centroids + 1)

    @cached_property
    def lists(self) -> NDArray[np.uint8]:
        """The lists of all centroids (`lists`)."""
        return self._file.content(LISTS)

    @cached_property
    def search_arrays(self) -> tuple[list[NDArray[Any]], list[int]]:
        """The arrays that search reads, lists aside, and their addresses: a row of `kernels.addresses`.

        Whoever keeps the addresses keeps the arrays with them.
        """
        others = [array for name, array in self.tokens.arrays.items() if name != CODES]
        arrays = [self.offsets_N, self.tokens.codes_T, *others]
        return arrays, [array.ctypes.data for array in arrays]

    def joined_lists(self, following: Sequence[Partition]) -> Lists:
        """The lists of this partition and those that follow it as those of one; made once, unless they are stored."""
        if self.has_lists:
            return self.list_offsets_K, self.lists
        group = [self, *following]
        members = tuple(partition._identity for partition in group)
        with _JOINING:  # searches of two versions may join other groups; the first search of many threads joins once
            joined = self._joined
            if joined is None or joined[0] != members:
                codes_T = np.concatenate([partition.tokens.codes_T for partition in group])
                lengths_N = np.concatenate([np.diff(partition.offsets_N) for partition in group])
                joined = self._joined = members, encode_lists(codes_T, lengths_N, self.codec.n_centroids)
        return joined[1]

    @cached_property
    def ids(self) -> Ids:
        """Ids of the documents."""
        n = self.info.documents
        return Ids(
            self._array("id_bytes", np.uint8, self.info.id_bytes),
            self._array("id_offsets", np.uint32, n + 1),
            self._array(ID_HASHES, np.uint32, n),
            self._array("id_positions", np.uint32, n),
        )

    @property
    def sections(self) -> Mapping[str, Section]:
        """The table of the sections of the partition's file."""
        return self._file.sections

    @property
    def location(self) -> str:
        """Path or URI of the partition's file."""
        return self._file.location

    @cached_property
    def live_N(self) -> NDArray[np.bool_]:  # noqa: N802
        """Whether each document is not deleted, bool [N]."""
        live_N = np.ones(self.info.documents, dtype=bool)
        live_N[self.deleted] = False
        return live_N

    def check(self) -> None:
        """Compare the checksum with the manifest and bounds-check offsets and ordinals; later calls return at once.

        Raises:
            IndexCorruptError: a damaged file; the message names it and the section.
        """
        if "all" in self._unchecked:
            if not self._trusted:
                self._store.checked(self._name, {name: info for name, info in self.info.files.items() if name != FILE})
            self._file.map_all(verify=not self._trusted)
            for name in _MAPPED:  # the file may have been replaced since it was mapped
                self.__dict__.pop(name, None)
            self._unchecked.discard("all")
        self._check_ids()
        if "tokens" in self._unchecked:
            self._check_below(CODES, self.tokens.codes_T, self.codec.n_centroids)
            if self.has_lists:
                self._check_offsets(LIST_OFFSETS, self.list_offsets_K, len(self.lists))
                offsets, lists = self.list_offsets_K.ctypes.data, self.lists.ctypes.data
                width, n_centroids = self.list_offsets_K.itemsize, self.codec.n_centroids
                if (centroid := invalid_list(offsets, width, lists, n_centroids, self.info.documents)) >= 0:
                    raise IndexCorruptError(f"{self._location(LISTS)}: the list of centroid {centroid} is not one")
            if damage := self.codec.damage(self.tokens):
                name, found = damage
                raise IndexCorruptError(f"{self._location(name)}: {found}")
            self._unchecked.discard("tokens")

    def find(self, ids: list[str], hashes_M: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each id, or -1 for an unknown or deleted document: int64 [M].

        Where no document has the hash of an id, it reads the hashes only: 4 bytes a document.
        """
        if "ids" in self._unchecked and not self._may_hold(hashes_M):
            return np.full(len(ids), -1, dtype=np.int64)
        self._check_ids()
        positions_M = self.ids.find(ids, hashes_M)
        positions_M[(positions_M >= 0) & ~self.live_N[positions_M]] = -1
        return positions_M

    def tokens_of(self, document: int) -> TokenCodes:
        """Return the quantised tokens of the document at a position."""
        return self.tokens.take(slice(self.offsets_N[document], self.offsets_N[document + 1]))

    def embeddings(self, document: int) -> NDArray[np.float32]:
        """Return the decoded embeddings of the document at a position, float32 [tokens, dim]."""
        return self.codec.decode(self.tokens_of(document))

    def metadata(self) -> pa.Table:
        """Return the metadata of all documents in order, including deleted ones."""
        with self._open_documents() as file:
            return check_table(file.read(), self.info.documents)

    def rows(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return the metadata of the documents at some positions; reads only their row groups, in batches."""
        if not self.columns:
            return [{} for _ in positions]
        groups, inverse_M = np.unique(positions // ROW_GROUP, return_inverse=True)
        rows: list[dict[str, Any]] = [{}] * len(positions)
        for g, group in enumerate(groups.tolist()):
            in_group = np.flatnonzero(inverse_M == g)
            for m, row in zip(in_group.tolist(), self._rows_of(group, positions[in_group] % ROW_GROUP), strict=True):
                rows[m] = row
        return rows

    def rows_are_cached(self, positions_M: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether `rows` finds each document's metadata in the cache, bool [M]."""
        groups = (positions_M // ROW_GROUP).tolist()
        return np.array([not self.columns or (self._identity, group) in _ROWS for group in groups], dtype=bool)

    def _rows_of(self, group: int, rows_M: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return some rows of one row group; caches the group unless it exceeds the whole cache."""
        with _ROWS_LOCK:
            table = _ROWS.get((self._identity, group))
        if table is not None:
            cached: list[dict[str, Any]] = table.take(rows_M).to_pylist()
            return cached
        rows: dict[int, dict[str, Any]] = {}
        batches: list[pa.Table] = []
        start, n_bytes = 0, 0
        with self._open_documents() as file:
            for unchecked in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                batch = check_table(pa.Table.from_batches([unchecked]), unchecked.num_rows)
                in_batch = np.unique(rows_M[(rows_M >= start) & (rows_M < start + batch.num_rows)])
                rows.update(zip(in_batch.tolist(), batch.take(in_batch - start).to_pylist(), strict=True))
                start += batch.num_rows
                n_bytes += batch.nbytes
                if n_bytes <= _ROWS_BYTES:
                    batches.append(batch)
                elif start > rows_M.max():
                    break
                else:
                    batches.clear()
            else:
                if start != (n_rows := file.metadata.row_group(group).num_rows):
                    raise pa.ArrowInvalid(f"row group {group} has {start} rows; expected {n_rows}")
        if n_bytes <= _ROWS_BYTES and (table := pa.concat_tables(batches).combine_chunks()).nbytes <= _ROWS.maxsize:
            with _ROWS_LOCK:
                _ROWS[self._identity, group] = table
        return [rows[row] for row in rows_M.tolist()]

    def column_arrays(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Return metadata columns of all documents; keeps them in memory for later filters."""
        if missing := [name for name in names if name not in self._columns_read]:
            with self._open_documents() as file:
                table = check_table(file.read(columns=missing), self.info.documents)
            self._columns_read |= {name: table.column(name) for name in missing}
        return {name: self._columns_read[name] for name in names}

    @contextmanager
    def _open_documents(self) -> Iterator[pq.ParquetFile]:
        """Open the metadata, checking its row groups and schema; turns read errors into `IndexCorruptError`."""
        self._verify([METADATA])
        path = self._location(METADATA)
        n, schema = self.info.documents, schema_of(self.columns)
        try:
            file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._file.content(METADATA))))
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            expected = [ROW_GROUP] * (n // ROW_GROUP) + [n % ROW_GROUP] * (n % ROW_GROUP > 0)
            if sizes != expected or not file.schema_arrow.equals(schema):
                raise IndexCorruptError(
                    f"{path}: rows or columns differ from the manifest's; expected {n} rows of {list(self.columns)}"
                )
            yield file
        except (OSError, ValueError, pa.ArrowException) as error:
            raise IndexCorruptError(f"{path}: not the Parquet table of the manifest ({error})") from None

    @property
    def _name(self) -> str:
        return f"{PARTITIONS}/{self.info.name}"

    def _array(self, name: str, dtype: Any, *shape: int) -> NDArray[Any]:
        return self._file.array(name, dtype, shape)

    def _check_sections(self) -> None:
        """Compare the lengths of the sections with the manifest."""
        _ = (self.offsets_N, self.tokens, self.ids, self.has_lists and self.list_offsets_K)
        if self.columns:
            self._file.content(METADATA)

    def _verify(self, names: Iterable[str]) -> None:
        """Compare the checksums of sections that were not compared before."""
        new = [name for name in names if name not in self._verified]
        if new and not self._trusted and "all" in self._unchecked:
            self._file.verify(new)
        self._verified |= set(new)

    def _may_hold(self, hashes_M: NDArray[np.uint64]) -> bool:
        if not self._store.is_local and self.info.documents < _MANY_DOCUMENTS:
            return True  # one request for everything is better than two
        self._verify([ID_HASHES])
        hashes_N = self._array(ID_HASHES, np.uint32, self.info.documents)
        self._check_hashes(hashes_N)
        return has_any(hashes_N, hashes_M)

    def _check_hashes(self, hashes_N: NDArray[np.uint32]) -> None:
        if (hashes_N[1:] < hashes_N[:-1]).any():
            raise IndexCorruptError(f"{self._location(ID_HASHES)}: expected ascending hashes")

    def _check_ids(self) -> None:
        self._verify(_ID_SECTIONS)
        if "ids" not in self._unchecked:
            return
        ids, n = self.ids, self.info.documents
        self._check_offsets(OFFSETS, self.offsets_N, self.info.tokens, strictly=True)
        self._check_offsets("id_offsets", ids.offsets_N, self.info.id_bytes, strictly=True)
        self._check_below("id_positions", ids.positions_N, n)
        self._check_hashes(ids.hashes_N)
        if not ids.are_utf8():
            raise IndexCorruptError(f"{self._location('id_bytes')}: an id is not valid UTF-8")
        self._unchecked.discard("ids")

    def _check_offsets(self, name: str, offsets: NDArray[Any], end: int, *, strictly: bool = False) -> None:
        # Compare, do not subtract: differences of hostile values wrap around.
        if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
            raise IndexCorruptError(f"{self._location(name)}: expected offsets ascending from 0 to {end}")
        if strictly and (offsets[1:] == offsets[:-1]).any():
            raise IndexCorruptError(f"{self._location(name)}: an empty document or id")

    def _check_below(self, name: str, values: NDArray[Any], limit: int) -> None:
        if values.max() >= limit:
            raise IndexCorruptError(f"{self._location(name)}: holds {values.max()}; expected less than {limit}")

    def _location(self, section: str) -> str:
        return f"{self.location}: section {section}"
