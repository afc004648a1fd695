"""Write files of an index with checksums, and read them checked and memory-mapped.

Arrays are `.npy`, tables Parquet, the rest JSON; nothing is pickled. Every byte is written by `os.write` in this
module and flushed by `os.fsync` before its file gets a name that readers look for.
"""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from raycol.errors import IndexCorruptError, RaycolError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_CONTENT_NAME = re.compile(r"\d{8}-[0-9a-f]{16}")
_CHUNK = 1 << 20


class FileInfo(BaseModel):
    """A file's entry in the manifest: length in bytes and XXH3 128-bit checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: Annotated[int, Field(ge=0, lt=2**53)]
    xxh3: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def check_name(name: str) -> str:
    """Return a file or folder name from a manifest. Raises `ValueError` if it could lead outside the index."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


Name = Annotated[str, AfterValidator(check_name)]
Files = dict[Name, FileInfo]


def content_name(base: int, files: Files) -> str:
    """Return a folder's name: the version its writer started from, and a hash of its contents.

    Equal contents written from the same version get the same name, so writing twice is harmless. `vacuum` uses the
    version to tell whether the writer may still be running.
    """
    lines = [f"{name} {info.bytes} {info.xxh3}" for name, info in sorted(files.items())]
    return f"{base:08d}-{xxhash.xxh3_64_hexdigest(chr(10).join(lines).encode())}"


def is_content_name(name: str) -> bool:
    """Whether a name has the form of `content_name`."""
    return _CONTENT_NAME.fullmatch(name) is not None


class ChecksumWriter(io.RawIOBase):
    """A new file, hashed while it is written and flushed to disk on close."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._digest = xxhash.xxh3_128()
        self._bytes = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, content: Any) -> int:
        """Write all of `content`, a contiguous buffer; return its length in bytes."""
        view = memoryview(content).cast("B")
        self._digest.update(view)
        self._bytes += len(view)
        written = 0
        while written < len(view):
            written += os.write(self._descriptor, view[written : written + (64 << 20)])
        return written

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self._bytes

    def close(self) -> None:
        """Flush the file to disk and close it."""
        if not self.closed:
            try:
                os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)
                super().close()

    @property
    def info(self) -> FileInfo:
        """Length and checksum of what was written."""
        return FileInfo(bytes=self._bytes, xxh3=self._digest.hexdigest())


def save_bytes(path: Path, content: bytes) -> FileInfo:
    """Write a new file; return its length and checksum."""
    with ChecksumWriter(path) as file:
        file.write(content)
    return file.info


def save_array(path: Path, array: NDArray[Any]) -> FileInfo:
    """Write an array as a new `.npy` file; return its length and checksum."""
    array = np.ascontiguousarray(array)
    with ChecksumWriter(path) as file:
        file.write(_npy_header(array.dtype, array.shape))
        if array.size:
            file.write(array.view(np.uint8) if array.dtype == np.float16 else array)
    return file.info


def open_array(folder: Path, name: str, files: Files, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map an array after checking its length, dtype and shape against the manifest.

    The `.npy` header is compared with the one raycol writes; it is never parsed.

    Raises:
        IndexCorruptError: the file is missing, not a plain file, or differs from the manifest.
    """
    path = folder / name
    header = _npy_header(np.dtype(dtype), shape)
    if name not in files:
        raise IndexCorruptError(f"{path}: the manifest does not list this file")
    descriptor = open_checked(path, files[name].bytes)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        expected = len(header) + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if files[name].bytes != expected or file.read(len(header)) != header:
            raise IndexCorruptError(
                f"{path}: not the {np.dtype(dtype)} array of shape {shape} that the manifest promises"
            )
        if 0 in shape:
            return np.empty(shape, dtype)
        content = _map(path, descriptor)
    return np.frombuffer(content, dtype, offset=len(header)).reshape(shape)


def map_file(path: Path, n_bytes: int) -> NDArray[np.uint8]:
    """Memory-map a plain file after checking its length. Raises `IndexCorruptError` as `open_checked` does."""
    with os.fdopen(open_checked(path, n_bytes), "rb", buffering=0) as file:
        return np.frombuffer(_map(path, file.fileno()) if n_bytes else b"", np.uint8)


def _map(path: Path, descriptor: int) -> pa.Buffer:
    # By pyarrow, because Python's mmap keeps a file descriptor open, and descriptors are limited.
    try:
        with pa.memory_map(f"/dev/fd/{descriptor}") as mapping:
            return mapping.read_buffer()
    except OSError as error:
        raise RaycolError(f"{path}: cannot be mapped ({error})") from error


def open_checked(path: Path, n_bytes: int) -> int:
    """Open a plain file for reading after checking its length; return its descriptor.

    Links and devices are refused: an untrusted index must not lead outside its folder.

    Raises:
        IndexCorruptError: the file is missing, not a plain file, or differs in length.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise IndexCorruptError(f"{path}: {error.strerror}; restore the file or rebuild the index") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise IndexCorruptError(f"{path}: not a plain file")
    if status.st_size != n_bytes:
        os.close(descriptor)
        raise IndexCorruptError(f"{path}: {status.st_size} bytes; the manifest promises {n_bytes}")
    return descriptor


def check_contents(folder: Path, files: Files) -> None:
    """Read every file of a folder. Raises `IndexCorruptError` at the first whose checksum differs."""
    for name, info in sorted(files.items()):
        with os.fdopen(open_checked(folder / name, info.bytes), "rb", buffering=0) as file:
            if digest(file) != info.xxh3:
                raise IndexCorruptError(
                    f"{folder / name}: the checksum differs from the manifest's; restore the file or rebuild the index"
                )


def describe_file(path: Path) -> FileInfo:
    """Read a file and return its length and checksum."""
    with path.open("rb", buffering=0) as file:
        return FileInfo(bytes=os.fstat(file.fileno()).st_size, xxh3=digest(file))


def describe_bytes(content: bytes | memoryview) -> FileInfo:
    """Return the length and checksum of a file's content."""
    return FileInfo(bytes=len(content), xxh3=xxhash.xxh3_128_hexdigest(content))


def digest(file: Any) -> str:
    """XXH3 128-bit checksum of the rest of a binary file, in hexadecimal."""
    checksum = xxhash.xxh3_128()
    while chunk := file.read(_CHUNK):
        checksum.update(chunk)
    return checksum.hexdigest()


def seal(record: bytes) -> bytes:
    """Prefix a record with a line that holds its checksum."""
    return b"%s\n%s" % (xxhash.xxh3_128_hexdigest(record).encode(), record)


def unseal(content: bytes) -> bytes:
    """Return the record from the output of `seal`. Raises `ValueError` if the checksum is wrong."""
    checksum, _, record = content.partition(b"\n")
    if checksum != xxhash.xxh3_128_hexdigest(record).encode():
        raise ValueError("its checksum is wrong")
    return record


def fsync_tree(path: Path) -> None:
    """Flush all files and folders of a tree to disk, for trees written by other libraries."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _fsync(Path(folder, name))
        fsync_folder(Path(folder))


def fsync_folder(path: Path) -> None:
    """Flush a folder's entries to disk."""
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
