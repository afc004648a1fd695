"""Embeddings in .npz files, read a document at a time: memory does not depend on how large the file is.

A file holds `embeddings`, either [n_tokens, dim] with the documents' `lengths`, or [n_documents, n_tokens, dim]; the
documents' `ids` (text or integers), and any other array of one number or text a document: metadata.
"""

from __future__ import annotations

import datetime
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from raycol.data.files import open_file
from raycol.data.position import START, Position
from raycol.errors import InputError

EMBEDDINGS = "embeddings"
LENGTHS = "lengths"

# What zipfile and NumPy raise: of damaged bytes, encrypted or unknown members, sizes that cannot be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def read_arrays(
    uri: str, choose: Callable[[list[str]], list[str]], start: Position = START
) -> Iterator[tuple[Position, dict[str, Any]]]:
    """Yield documents from `start` with their positions; `choose` picks from the names of arrays.

    Raises:
        InputError: no such file, or arrays that do not fit together.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open_file(uri))
        try:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if EMBEDDINGS not in names:
                raise InputError(f"{uri}: no array {EMBEDDINGS!r}, only {', '.join(names) or 'nothing'}")
            tokens = stack.enter_context(_Rows(archive, EMBEDDINGS))
            lengths = _lengths(archive, names, tokens.shape, uri)
            wanted = choose(names)
            columns = {name: _column(archive, name, len(lengths), uri) for name in wanted if name != EMBEDDINGS}
            if with_tokens := EMBEDDINGS in wanted:
                tokens.skip(int(lengths[: start.offset].sum()) if len(tokens.shape) == 2 else start.offset)
            for number in range(start.offset, len(lengths)):
                record = {name: _value(column[number]) for name, column in columns.items()}
                if with_tokens:
                    size = int(lengths[number])
                    record[EMBEDDINGS] = tokens.read(size) if len(tokens.shape) == 2 else tokens.read(1)[0]
                yield Position(number, number + 1), record
        except _DAMAGE as error:
            raise InputError(f"{uri}: not a usable .npz file ({' '.join(str(error).split())[:200]})") from None


def _lengths(archive: zipfile.ZipFile, names: list[str], shape: tuple[int, ...], uri: str) -> NDArray[np.int64]:
    if len(shape) == 3:
        return np.full(shape[0], shape[1], dtype=np.int64)
    if len(shape) != 2 or LENGTHS not in names:
        raise InputError(
            f"{uri}: embeddings of shape {shape}; expected [tokens, dim] with an array {LENGTHS!r}, "
            "or [documents, tokens, dim]"
        )
    lengths = _whole(archive, LENGTHS)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (len(lengths) and lengths.min() < 1):
        raise InputError(f"{uri}: {LENGTHS} of shape {lengths.shape} and type {lengths.dtype}; expected counts from 1")
    if lengths.sum() != shape[0]:
        raise InputError(f"{uri}: {LENGTHS} add up to {lengths.sum()}; there are {shape[0]} embeddings")
    return lengths.astype(np.int64)


def _column(archive: zipfile.ZipFile, name: str, n: int, uri: str) -> NDArray[Any]:
    values = _whole(archive, name)
    if values.shape != (n,):
        raise InputError(f"{uri}: {name} of shape {values.shape}; expected one value for each of {n} documents")
    return values


def _value(scalar: Any) -> Any:
    if scalar.dtype.kind != "M":
        return scalar.item()
    value = scalar.astype("datetime64[us]").item() if np.datetime_data(scalar.dtype)[0] != "D" else scalar.item()
    return value.replace(tzinfo=datetime.UTC) if isinstance(value, datetime.datetime) else value


def _whole(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


class _Rows:
    """An array inside an archive, read forward some rows at a time."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._file: IO[bytes] = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self._dtype = read_header(self._file)
        if min(self.shape, default=0) < 0:
            raise ValueError(f"{name} of shape {self.shape}")
        if fortran or self._dtype.hasobject or self._dtype.kind != "f":
            raise ValueError(f"{name} is a {self._dtype} array; expected floating point in C order")

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def skip(self, n_rows: int) -> None:
        """Pass over rows."""
        left = n_rows * self._row_bytes
        while left:
            got = len(self._file.read(min(left, 1 << 20)))
            if not got:
                raise EOFError("it ends early")
            left -= got

    def read(self, n_rows: int) -> NDArray[Any]:
        """The next rows."""
        content = self._file.read(n_rows * self._row_bytes)
        return np.frombuffer(content, self._dtype).reshape(n_rows, *self.shape[1:])

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * int(self._dtype.itemsize)
