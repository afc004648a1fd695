"""A partition opened for reading: consecutive documents, quantised, with the inverted lists over their tokens.

A partition is a pure function of its documents in order and the codebook. Its folder never changes; what is deleted
from it later is kept beside it (`deletes`).

Files (N documents, T tokens, K centroids, B residual bytes a token):
    offsets.npy        int64 [N + 1]   first token of each document
    codes.npy          uint16 [T]      centroid of each token (uint32 where K is over 65,536)
    residuals.npy      uint8 [T, B]    packed residual levels
    gains.npy          uint8 [T]       step size of each token's residual
    scales.npy         float16 [T]     length correction
    list_offsets.npy   uint32 [K + 1]  first entry of each centroid's list
    list_documents.npy uint32 [T]      the documents of each centroid's tokens, ascending within a list
    id_*.npy           (see `ids`)
    documents.parquet  metadata columns, one row a document; not there where the index has no columns
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError
from raycol.index.codec.codebook import Codebook, TokenCodes
from raycol.index.format.columns import Columns, check_table, schema_of
from raycol.index.format.deletes import open_deletes
from raycol.index.format.ids import Ids
from raycol.index.format.manifest import PARTITIONS, PartitionInfo
from raycol.index.search.lru_cache import RecentTables
from raycol.storage import Files, Store, open_array

DOCUMENTS = "documents.parquet"
# Rows that are read together where one is wanted.
ROW_GROUP = 512

# Rows that were read, for all partitions of the process.
_ROWS_BYTES = 32 << 20
_ROWS = RecentTables(_ROWS_BYTES)
# So many rows of a row group are written and read at a time: of long texts a group may have hundreds of megabytes.
PIECE_ROWS = 16

# What says which documents there are: all that deleting or upserting has to read.
_ID_FILES = ("id_bytes.npy", "id_offsets.npy", "id_hashes.npy", "id_positions.npy", "offsets.npy")


class Partition:
    """A partition opened for reading; arrays are memory-mapped when they are first used.

    Whatever reads token arrays calls `check` first: it costs one pass over the files, once. What reads ids or
    metadata checks that itself.
    """

    def __init__(
        self,
        store: Store,
        info: PartitionInfo,
        codebook: Codebook,
        columns: Columns,
        deleted: NDArray[np.uint32],
        *,
        trusted: bool,
    ) -> None:
        self.info = info
        self.columns = columns
        self.deleted = deleted
        self._store = store
        self._n_centroids = codebook.n_centroids
        self._width = codebook.dim * codebook.bits // 8
        self._code_dtype = codebook.code_dtype
        self._trusted = trusted
        self._unverified = set(info.files)
        self._unchecked = {"ids", "tokens"}
        self._kept: dict[str, pa.ChunkedArray] = {}
        # The partition's own, also where its name comes again: in an index made anew.
        self._rows_key = object()

    @classmethod
    def open(
        cls, store: Store, info: PartitionInfo, codebook: Codebook, columns: Columns, *, trusted: bool = False
    ) -> Partition:
        """Open a partition that a manifest names; checks lengths and headers, not contents.

        Args:
            store: the index.
            info: the manifest's entry.
            codebook: the index's codebook.
            columns: the index's metadata columns.
            trusted: `check` looks at numbers that lead into arrays, and not at checksums.

        Raises:
            IndexCorruptError: a file is missing, or not of the promised length, type or shape.
        """
        partition = cls(store, info, codebook, columns, open_deletes(store, info), trusted=trusted)
        partition._check_files()
        return partition

    def without(self, info: PartitionInfo) -> Partition:
        """The same partition with other deletes; what is open and checked stays so."""
        changed = copy.copy(self)
        changed.info = info
        changed.deleted = open_deletes(self._store, info)
        changed.__dict__.pop("live_N", None)
        return changed

    @cached_property
    def offsets_N(self) -> NDArray[np.int64]:  # noqa: N802
        """First token of each document, int64 [N + 1]."""
        return self._array("offsets.npy", np.int64, self.info.documents + 1)

    @cached_property
    def codes_T(self) -> NDArray[Any]:  # noqa: N802
        """Centroid of each token, uint16 or uint32 [T]."""
        return self._array("codes.npy", self._code_dtype, self.info.tokens)

    @cached_property
    def residuals_TB(self) -> NDArray[np.uint8]:  # noqa: N802
        """Packed residual levels, uint8 [T, B]."""
        return self._array("residuals.npy", np.uint8, self.info.tokens, self._width)

    @cached_property
    def gains_T(self) -> NDArray[np.uint8]:  # noqa: N802
        """Numbers of the tokens' gains, uint8 [T]."""
        return self._array("gains.npy", np.uint8, self.info.tokens)

    @cached_property
    def scales_T(self) -> NDArray[np.float16]:  # noqa: N802
        """Length corrections, float16 [T]."""
        return self._array("scales.npy", np.float16, self.info.tokens)

    @cached_property
    def list_offsets_K(self) -> NDArray[np.uint32]:  # noqa: N802
        """First entry of each centroid's list, uint32 [K + 1]."""
        return self._array("list_offsets.npy", np.uint32, self._n_centroids + 1)

    @cached_property
    def list_documents_T(self) -> NDArray[np.uint32]:  # noqa: N802
        """The document of each token, by centroid, uint32 [T]."""
        return self._array("list_documents.npy", np.uint32, self.info.tokens)

    @cached_property
    def ids(self) -> Ids:
        """The documents' ids."""
        n = self.info.documents
        return Ids(
            self._array("id_bytes.npy", np.uint8, self.info.id_bytes),
            self._array("id_offsets.npy", np.int64, n + 1),
            self._array("id_hashes.npy", np.uint64, n),
            self._array("id_positions.npy", np.uint32, n),
        )

    @cached_property
    def live_N(self) -> NDArray[np.bool_]:  # noqa: N802
        """Whether each document is still in the index, bool [N]."""
        live_N = np.ones(self.info.documents, dtype=bool)
        live_N[self.deleted] = False
        return live_N

    def check(self) -> None:
        """Check every byte against the manifest, and that no number leads out of its array; once.

        Raises:
            IndexCorruptError: naming the file.
        """
        self._check_ids()
        self._verify(self.info.files)
        if "tokens" in self._unchecked:
            t = self.info.tokens
            self._check_ascends("list_offsets.npy", self.list_offsets_K, t)
            self._check_below("codes.npy", self.codes_T, self._n_centroids)
            self._check_below("list_documents.npy", self.list_documents_T, self.info.documents)
            if not np.isfinite(self.scales_T).all():
                raise IndexCorruptError(f"{self._place('scales.npy')}: holds NaN or infinite values")
            self._unchecked.discard("tokens")

    def find(self, ids: list[str], hashes_M: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The position of each id among the documents still in the index, or -1, int64 [M]."""
        self._check_ids()
        found_M = self.ids.find(ids, hashes_M)
        found_M[(found_M >= 0) & ~self.live_N[found_M]] = -1
        return found_M

    def tokens(self, document: int) -> TokenCodes:
        """The stored tokens of one document, by its position."""
        start, stop = self.offsets_N[document], self.offsets_N[document + 1]
        return TokenCodes(
            self.codes_T[start:stop],
            self.residuals_TB[start:stop],
            self.gains_T[start:stop],
            self.scales_T[start:stop],
        )

    def metadata(self) -> pa.Table:
        """The metadata of all documents in order, those deleted too."""
        with self._reading() as file:
            return check_table(file.read(), self.info.documents)

    def rows(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The metadata of some documents; only the row groups that they are in are read, large ones piece by piece."""
        if not self.columns:
            return [{} for _ in positions]
        groups, group_M = np.unique(positions // ROW_GROUP, return_inverse=True)
        found: list[dict[str, Any]] = [{}] * len(positions)
        for number, group in enumerate(groups.tolist()):
            places = np.flatnonzero(group_M == number)
            within = positions[places] % ROW_GROUP
            for place, row in zip(places.tolist(), self._rows_of(group, within), strict=True):
                found[place] = row
        return found

    def rows_at_hand(self, positions_M: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether `rows` has each document's metadata without reading it, bool [M]."""
        groups = (positions_M // ROW_GROUP).tolist()
        return np.array([not self.columns or (self._rows_key, group) in _ROWS for group in groups], dtype=bool)

    def _rows_of(self, group: int, rows_M: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Some rows of one row group. A group is held as a whole, and kept, where it is not large."""
        table = _ROWS.get((self._rows_key, group))
        if table is not None:
            kept: list[dict[str, Any]] = table.take(rows_M).to_pylist()
            return kept
        found: dict[int, dict[str, Any]] = {}
        pieces: list[pa.Table] = []
        start, n_bytes = 0, 0
        with self._reading() as file:
            for batch in file.iter_batches(PIECE_ROWS, row_groups=[group]):
                piece = check_table(pa.Table.from_batches([batch]), batch.num_rows)
                wanted = np.unique(rows_M[(rows_M >= start) & (rows_M < start + piece.num_rows)])
                found.update(zip(wanted.tolist(), piece.take(wanted - start).to_pylist(), strict=True))
                start += piece.num_rows
                n_bytes += piece.nbytes
                if n_bytes <= _ROWS_BYTES:
                    pieces.append(piece)
                elif start > rows_M.max():
                    break
                else:
                    pieces.clear()
            else:
                if start != file.metadata.row_group(group).num_rows:
                    raise pa.ArrowInvalid(f"row group {group} has {start} rows; more are promised")
        if n_bytes <= _ROWS_BYTES:
            _ROWS.put((self._rows_key, group), pa.concat_tables(pieces).combine_chunks())
        return [found[row] for row in rows_M.tolist()]

    def column_arrays(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Some metadata columns of all documents. They are kept: filters come again."""
        if missing := [name for name in names if name not in self._kept]:
            with self._reading() as file:
                read = check_table(file.read(columns=missing), self.info.documents)
            self._kept |= {name: read.column(name) for name in missing}
        return {name: self._kept[name] for name in names}

    @contextmanager
    def _reading(self) -> Iterator[pq.ParquetFile]:
        """The table of documents, checked to be the one promised."""
        self._verify([DOCUMENTS])
        path = self._store.folder(self._name, self._only(DOCUMENTS)) / DOCUMENTS
        n, schema = self.info.documents, schema_of(self.columns)
        try:
            file = pq.ParquetFile(path, memory_map=True)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            whole = [ROW_GROUP] * (n // ROW_GROUP) + [n % ROW_GROUP] * (n % ROW_GROUP > 0)
            if sizes != whole or not file.schema_arrow.equals(schema):
                raise IndexCorruptError(f"{path}: not the {n} rows of {list(self.columns)} promised")
            yield file
        except (OSError, ValueError, pa.ArrowException) as error:
            raise IndexCorruptError(f"{path}: not the Parquet table promised ({error})") from None

    @property
    def _name(self) -> str:
        return f"{PARTITIONS}/{self.info.name}"

    def _only(self, name: str) -> Files:
        if name not in self.info.files:
            raise IndexCorruptError(f"{self._store.location(self._name)}: the manifest lists no {name}")
        return {name: self.info.files[name]}

    def _array(self, name: str, dtype: Any, *shape: int) -> NDArray[Any]:
        folder = self._store.folder(self._name, self._only(name))
        return open_array(folder, name, self.info.files, dtype, shape)

    def _check_files(self) -> None:
        """Whether files are there, of the right length and, where that costs nothing, with the right headers."""
        self._store.check_lengths(self._name, self.info.files)
        if self.columns:
            self._only(DOCUMENTS)
        if self._store.is_local:
            _ = (self.offsets_N, self.codes_T, self.residuals_TB, self.gains_T, self.scales_T)
            _ = (self.list_offsets_K, self.list_documents_T, self.ids)

    def _verify(self, names: Iterable[str]) -> None:
        """Compare checksums, once a file."""
        for name in [name for name in names if name in self._unverified]:
            files = self._only(name)
            if not self._trusted:
                self._store.checked(self._name, files)
            self._unverified.discard(name)

    def _check_ids(self) -> None:
        self._verify(_ID_FILES)
        if "ids" not in self._unchecked:
            return
        ids, n = self.ids, self.info.documents
        self._check_ascends("offsets.npy", self.offsets_N, self.info.tokens, strictly=True)
        self._check_ascends("id_offsets.npy", ids.offsets_N, self.info.id_bytes, strictly=True)
        self._check_below("id_positions.npy", ids.positions_N, n)
        if (ids.hashes_N[1:] < ids.hashes_N[:-1]).any():
            raise IndexCorruptError(f"{self._place('id_hashes.npy')}: does not ascend")
        if not ids.are_text():
            raise IndexCorruptError(f"{self._place('id_bytes.npy')}: not ids in UTF-8")
        self._unchecked.discard("ids")

    def _check_ascends(self, name: str, offsets: NDArray[Any], end: int, *, strictly: bool = False) -> None:
        # Compared, not subtracted: differences of hostile numbers wrap around.
        if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
            raise IndexCorruptError(f"{self._place(name)}: does not ascend from 0 to {end}")
        if strictly and (offsets[1:] == offsets[:-1]).any():
            raise IndexCorruptError(f"{self._place(name)}: an empty document or id")

    def _check_below(self, name: str, numbers: NDArray[Any], limit: int) -> None:
        if numbers.max() >= limit:
            raise IndexCorruptError(f"{self._place(name)}: holds {numbers.max()}; expected less than {limit}")

    def _place(self, name: str) -> str:
        return self._store.location(f"{self._name}/{name}")
