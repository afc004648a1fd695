"""Embeddings in .npz files, read some documents at a time: memory does not depend on how large the file is.

A file holds `embeddings`, either [n_tokens, dim] with the documents' `lengths`, or [n_documents, n_tokens, dim]; the
documents' `ids` (text or integers), and any other array of one number or text a document: metadata.
"""

from __future__ import annotations

import datetime
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, open_file
from raycol.data.position import START, Position
from raycol.errors import InputError, reason_of

EMBEDDINGS = "embeddings"
LENGTHS = "lengths"

# Documents whose ids and metadata are read at once.
_ROWS = 512
# Lengths that are added up at once.
_BLOCK = 1 << 16
# Where a member's header says how long its name is, and what follows that (APPNOTE.TXT 4.3.7).
_NAME_LENGTH = 26

# Names of plain types only: others are code to NumPy, and some crash it ("<M8[ns/0]").
_TYPE = rb"[<>|=]?(?:[?biufc]\d{0,2}|[SU]\d{1,9}|O\d?|[mM]8(?:\[\d{0,3}(?:[YMWDhms]|[munpfa]s)\])?)"
_HEADER = re.compile(
    rb"\s*\{(?:\s*(?:'descr'\s*:\s*'" + _TYPE + rb"'|'fortran_order'\s*:\s*(?:True|False)"
    rb"|'shape'\s*:\s*\([\d\s,]{0,100}\))\s*,?){3}\s*\}\s*"
)
_LONGEST_HEADER = 4096

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

    All lengths are checked where reading begins with the first document. An empty file has no documents.

    Raises:
        InputError: no such file, or arrays that do not fit together.
    """
    with _open(uri) as arrays:
        if arrays is None:
            return
        wanted = choose(arrays.names)
        columns = {name: arrays.column(name, start.offset) for name in wanted if name != EMBEDDINGS}
        if not start.offset:
            arrays.check_lengths()
        tokens = arrays.tokens(start.offset) if EMBEDDINGS in wanted else None
        step = max(
            1, min(_ROWS, MAX_RECORD_BYTES // max(1, sum(column.dtype.itemsize for column in columns.values())))
        )
        for first in range(start.offset, arrays.n_documents, step):
            n_rows = min(step, arrays.n_documents - first)
            rows = {name: column.read(n_rows) for name, column in columns.items()}
            for row in range(n_rows):
                record = {name: _value(values[row]) for name, values in rows.items()}
                if tokens:
                    record[EMBEDDINGS] = next(tokens)
                yield Position(first + row, first + row + 1), record


def look_at_arrays(uri: str) -> tuple[int, bool]:
    """How many documents a file has, and whether it is compressed. Raises `InputError` as `read_arrays` does."""
    with _open(uri) as arrays:
        return (arrays.n_documents, arrays.compressed) if arrays else (0, False)


@contextmanager
def _open(uri: str) -> Iterator[_Arrays | None]:
    """The arrays of a file; None where it is empty."""
    with open_file(uri) as raw, ExitStack() as stack:
        try:
            yield _Arrays(raw, uri, stack) if raw.size() else None
        except _DAMAGE as error:
            raise InputError(f"{uri}: not a usable .npz file ({reason_of(error, 200)})") from None


class _Arrays:
    """The arrays of an open file; each is opened when it is asked for, and closed with `stack`."""

    def __init__(self, raw: pa.NativeFile, uri: str, stack: ExitStack) -> None:
        self._raw, self._uri, self._stack = raw, uri, stack
        self._archive = stack.enter_context(zipfile.ZipFile(raw))
        self.names = [name.removesuffix(".npy") for name in self._archive.namelist()]
        if EMBEDDINGS not in self.names:
            raise InputError(f"{uri}: no array {EMBEDDINGS!r}, only {', '.join(self.names) or 'nothing'}")
        tokens = self._rows(EMBEDDINGS)
        if tokens.dtype.kind != "f":
            raise ValueError(f"{EMBEDDINGS} is a {tokens.dtype} array; expected floating point")
        self._shape, self.compressed = tokens.shape, tokens.compressed
        if len(self._shape) != 3 and (len(self._shape) != 2 or LENGTHS not in self.names):
            raise InputError(
                f"{uri}: embeddings of shape {self._shape}; expected [tokens, dim] with an array {LENGTHS!r}, "
                "or [documents, tokens, dim]"
            )
        self.n_documents = self._shape[0] if len(self._shape) == 3 else self._lengths().shape[0]

    def column(self, name: str, start: int) -> _Rows:
        """An array of one value a document, from a document on."""
        column = self._rows(name)
        if column.shape != (self.n_documents,):
            found = f"{self._uri}: {name} of shape {column.shape}"
            raise InputError(f"{found}; expected one value for each of {self.n_documents} documents")
        column.skip(min(start, self.n_documents))
        return column

    def check_lengths(self) -> None:
        """Raise `InputError` where the lengths are not those of the embeddings."""
        if len(self._shape) == 3:
            return
        lengths, total = self._lengths(), 0
        for lengths_N in _blocks(lengths, self.n_documents):
            if lengths_N.min() < 1:
                raise _no_counts(self._uri, lengths)
            total += int(lengths_N.sum())
        if total != self._shape[0]:
            raise InputError(f"{self._uri}: {LENGTHS} add up to {total}; there are {self._shape[0]} embeddings")

    def tokens(self, start: int) -> Iterator[NDArray[Any]]:
        """The embeddings of each document, from a document on."""
        tokens = self._rows(EMBEDDINGS)
        if len(self._shape) == 3:
            tokens.skip(min(start, self.n_documents))
            while True:
                yield tokens.read(1)[0]
        lengths = self._lengths()
        tokens.skip(sum(int(lengths_N.sum()) for lengths_N in _blocks(lengths, start)))
        for lengths_N in _blocks(lengths, self.n_documents - start):
            yield from map(tokens.read, lengths_N.tolist())

    def _lengths(self) -> _Rows:
        lengths = self._rows(LENGTHS)
        if len(lengths.shape) != 1 or lengths.dtype.kind not in "iu":
            raise _no_counts(self._uri, lengths)
        return lengths

    def _rows(self, name: str) -> _Rows:
        return self._stack.enter_context(_Rows(self._raw, self._archive, name))


def _blocks(lengths: _Rows, n_documents: int) -> Iterator[NDArray[np.int64]]:
    """The next lengths, many at a time."""
    for start in range(0, n_documents, _BLOCK):
        yield lengths.read(min(_BLOCK, n_documents - start)).astype(np.int64)


def _no_counts(uri: str, lengths: _Rows) -> InputError:
    return InputError(f"{uri}: {LENGTHS} of shape {lengths.shape} and type {lengths.dtype}; expected counts from 1")


def _value(scalar: Any) -> Any:
    if scalar.dtype.kind != "M":
        return scalar.item()
    value = scalar.astype("datetime64[us]").item() if np.datetime_data(scalar.dtype)[0] != "D" else scalar.item()
    return value.replace(tzinfo=datetime.UTC) if isinstance(value, datetime.datetime) else value


class _Rows:
    """An array inside an archive, read forward some rows at a time."""

    def __init__(self, raw: pa.NativeFile, archive: zipfile.ZipFile, name: str) -> None:
        self._raw, self._info = raw, archive.getinfo(f"{name}.npy")
        self.compressed = self._info.compress_type != zipfile.ZIP_STORED
        self._opened = archive.open(self._info)
        self._file: IO[bytes] | _Stored = self._opened
        self.shape, fortran, self.dtype = _read_header(self._opened, name)
        if min(self.shape, default=0) < 0:
            raise ValueError(f"{name} of shape {self.shape}")
        if fortran or self.dtype.hasobject:
            raise ValueError(f"{name} is a {self.dtype} array; expected numbers or text in C order")
        self._left = self._info.file_size - self._opened.tell()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def skip(self, n_rows: int) -> None:
        """Pass over rows.

        Where they are not compressed they are not read, so that a part in the middle of a large file costs no more
        than any other; nor is the archive's checksum then looked at.
        """
        left = self._take(n_rows)
        if not self.compressed:
            self._file = _Stored(self._raw, self._info, self._info.file_size - self._left)
            return
        while left:
            got = len(self._file.read(min(left, 1 << 20)))
            if not got:
                raise EOFError("it ends early")
            left -= got

    def read(self, n_rows: int) -> NDArray[Any]:
        """The next rows. Raises `ValueError` where they are too large for memory."""
        n_bytes = self._take(n_rows)
        if n_bytes > MAX_RECORD_BYTES:
            raise ValueError(TOO_LARGE)
        content = self._file.read(n_bytes)
        return np.frombuffer(content, self.dtype).reshape(n_rows, *self.shape[1:])

    def _take(self, n_rows: int) -> int:
        """Bytes of the next rows, now taken. Raises `EOFError` where there are not so many."""
        n_bytes = n_rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        if not 0 <= n_bytes <= self._left:
            raise EOFError("it ends early")
        self._left -= n_bytes
        return n_bytes


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type. What it says is checked first: NumPy evaluates it as Python."""
    version = np.lib.format.read_magic(file)
    n_length = 2 if version == (1, 0) else 4
    length = file.read(n_length)
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > _LONGEST_HEADER:
        raise ValueError(f"the header of {name} takes {n_bytes} bytes; expected at most {_LONGEST_HEADER}")
    header = file.read(n_bytes)
    if not _HEADER.fullmatch(header):
        found = header.decode("utf-8", "replace").strip()
        raise ValueError(f"{name} is {found:.80}; expected an array of numbers or text in C order")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(length + header))


class _Stored:
    """An archive's member that is not compressed, read from some byte on."""

    def __init__(self, raw: pa.NativeFile, info: zipfile.ZipInfo, offset: int) -> None:
        self._raw = raw
        raw.seek(info.header_offset + _NAME_LENGTH)
        before = sum(struct.unpack("<HH", raw.read(4)))
        self._place = info.header_offset + _NAME_LENGTH + 4 + before + offset

    def read(self, n_bytes: int) -> bytes:
        """The next bytes. Others read the same file, hence the seek."""
        self._raw.seek(self._place)
        content: bytes = self._raw.read(n_bytes)
        self._place += len(content)
        return content
