"""Read embeddings from .npz files in batches of documents, in memory independent of the file size.

A file holds `embeddings`, either [n_tokens, dim] with the documents' `lengths`, or [n_documents, n_tokens, dim]; `ids`
(strings or integers); and metadata: any other array with one number or string per document.
"""

from __future__ import annotations

import datetime
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, open_file
from raycol.data.readers.reader import START, CorpusFile, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError, reason_of

EMBEDDINGS = "embeddings"
LENGTHS = "lengths"

# Documents per batch of ids and metadata.
_ROWS = 512
# Lengths per block when summing them.
_BLOCK = 1 << 16
# Offset of the name and extra-field lengths in a member's local header (APPNOTE.TXT 4.3.7).
_NAME_LENGTH = 26

# Only plain types: NumPy evaluates other type names, and some crash it ("<M8[ns/0]").
_TYPE = rb"[<>|=]?(?:[?biufc]\d{0,2}|[SU]\d{1,9}|O\d?|[mM]8(?:\[\d{0,3}(?:[YMWDhms]|[munpfa]s)\])?)"
_HEADER = re.compile(
    rb"\s*\{(?:\s*(?:'descr'\s*:\s*'" + _TYPE + rb"'|'fortran_order'\s*:\s*(?:True|False)"
    rb"|'shape'\s*:\s*\([\d\s,]{0,100}\))\s*,?){3}\s*\}\s*"
)
_LONGEST_HEADER = 4096

# Raised by zipfile and NumPy for damaged bytes, encrypted or unsupported members, and impossible sizes.
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


class NpzReader(Reader):
    """Reader of .npz files. Reading from the first document checks all lengths."""

    suffixes = (".npz",)
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`. Raises `InputError` also if the shapes of the arrays do not match."""
        with _open(file.uri) as arrays:
            if arrays is None:
                return
            selected = select(arrays.names)
            columns = {name: arrays.column(name, start.offset) for name in selected if name != EMBEDDINGS}
            if not start.offset:
                arrays.check_lengths()
            tokens = arrays.tokens(start.offset) if EMBEDDINGS in selected else None
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

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        with _open(file.uri) as arrays:
            return arrays.n_documents if arrays else 0

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`. A compressed file is read from its start only."""
        with _open(file.uri) as arrays:
            if not arrays or arrays.compressed:
                return [START]
        return [Position(row, row + 1) for row in offsets]


@contextmanager
def _open(uri: str) -> Iterator[_Arrays | None]:
    """The arrays of a file; None for an empty file."""
    with open_file(uri) as raw, ExitStack() as stack:
        try:
            yield _Arrays(raw, uri, stack) if raw.size() else None
        except _DAMAGE as error:
            raise InputError(f"{uri}: not a usable .npz file ({reason_of(error, 200)})") from None


class _Arrays:
    """The arrays of an open file; each is opened on demand and closed by `stack`."""

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
        """An array with one value per document, from document `start`."""
        column = self._rows(name)
        if column.shape != (self.n_documents,):
            raise InputError(
                f"{self._uri}: {name} of shape {column.shape}; expected one value for each of {self.n_documents} "
                "documents"
            )
        column.skip(min(start, self.n_documents))
        return column

    def check_lengths(self) -> None:
        """Raise `InputError` if the lengths are not positive or do not add up to the number of embeddings."""
        if len(self._shape) == 3:
            return
        lengths, total = self._lengths(), 0
        for lengths_N in _blocks(lengths, self.n_documents):
            if lengths_N.min() < 1:
                raise _invalid_lengths(self._uri, lengths)
            total += int(lengths_N.sum())
        if total != self._shape[0]:
            raise InputError(f"{self._uri}: {LENGTHS} add up to {total}; expected {self._shape[0]}, one per embedding")

    def tokens(self, start: int) -> Iterator[NDArray[Any]]:
        """Yield the embeddings [n_tokens, dim] of each document, from document `start`."""
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
            raise _invalid_lengths(self._uri, lengths)
        return lengths

    def _rows(self, name: str) -> _Rows:
        return self._stack.enter_context(_Rows(self._raw, self._archive, name))


def _blocks(lengths: _Rows, n_documents: int) -> Iterator[NDArray[np.int64]]:
    """Yield the next lengths in blocks."""
    for start in range(0, n_documents, _BLOCK):
        yield lengths.read(min(_BLOCK, n_documents - start)).astype(np.int64)


def _invalid_lengths(uri: str, lengths: _Rows) -> InputError:
    return InputError(
        f"{uri}: {LENGTHS} of shape {lengths.shape} and type {lengths.dtype}; expected a positive integer per document"
    )


def _value(scalar: Any) -> Any:
    if scalar.dtype.kind != "M":
        return scalar.item()
    value = scalar.astype("datetime64[us]").item() if np.datetime_data(scalar.dtype)[0] != "D" else scalar.item()
    return value.replace(tzinfo=datetime.UTC) if isinstance(value, datetime.datetime) else value


class _Rows:
    """An array inside an archive, read forward in batches of rows."""

    def __init__(self, raw: pa.NativeFile, archive: zipfile.ZipFile, name: str) -> None:
        self._raw, self._info = raw, archive.getinfo(f"{name}.npy")
        self.compressed = self._info.compress_type != zipfile.ZIP_STORED
        self._opened = archive.open(self._info)
        self._file: IO[bytes] | _StoredMember = self._opened
        self.shape, fortran, self.dtype = _read_header(self._opened, name)
        if min(self.shape, default=0) < 0:
            raise ValueError(f"{name} of shape {self.shape}")
        if fortran or self.dtype.hasobject:
            raise ValueError(f"{name} is a {self.dtype} array; expected numbers or text in C order")
        self._remaining = self._info.file_size - self._opened.tell()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def skip(self, n_rows: int) -> None:
        """Skip rows.

        An uncompressed array seeks instead of reading, so that a part costs the same wherever it starts in a large
        file; the archive's checksum is not verified then.
        """
        n_bytes = self._consume(n_rows)
        if not self.compressed:
            self._file = _StoredMember(self._raw, self._info, self._info.file_size - self._remaining)
            return
        while n_bytes:
            n_read = len(self._file.read(min(n_bytes, 1 << 20)))
            if not n_read:
                raise EOFError("the file is truncated")
            n_bytes -= n_read

    def read(self, n_rows: int) -> NDArray[Any]:
        """The next rows. Raises `ValueError` if they exceed `MAX_RECORD_BYTES`."""
        n_bytes = self._consume(n_rows)
        if n_bytes > MAX_RECORD_BYTES:
            raise ValueError(TOO_LARGE)
        content = self._file.read(n_bytes)
        return np.frombuffer(content, self.dtype).reshape(n_rows, *self.shape[1:])

    def _consume(self, n_rows: int) -> int:
        """Size of the next rows in bytes, subtracted from the rest of the array. Raises `EOFError` beyond its end."""
        n_bytes = n_rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        if not 0 <= n_bytes <= self._remaining:
            raise EOFError("the file is truncated")
        self._remaining -= n_bytes
        return n_bytes


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an array. Validates the header first, since NumPy evaluates it as Python."""
    version = np.lib.format.read_magic(file)
    n_length = 2 if version == (1, 0) else 4
    length = file.read(n_length)
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > _LONGEST_HEADER:
        raise ValueError(f"the header of {name} takes {n_bytes} bytes; expected at most {_LONGEST_HEADER}")
    header = file.read(n_bytes)
    if not _HEADER.fullmatch(header):
        shown = header.decode("utf-8", "replace").strip()
        raise ValueError(f"{name} is {shown:.80}; expected an array of numbers or text in C order")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(length + header))


class _StoredMember:
    """An uncompressed member of an archive, read from an offset in bytes."""

    def __init__(self, raw: pa.NativeFile, info: zipfile.ZipInfo, offset: int) -> None:
        self._raw = raw
        raw.seek(info.header_offset + _NAME_LENGTH)
        n_name_bytes = sum(struct.unpack("<HH", raw.read(4)))
        self._offset = info.header_offset + _NAME_LENGTH + 4 + n_name_bytes + offset

    def read(self, n_bytes: int) -> bytes:
        """The next bytes. Seeks first, since the members share one file handle."""
        self._raw.seek(self._offset)
        content: bytes = self._raw.read(n_bytes)
        self._offset += len(content)
        return content
