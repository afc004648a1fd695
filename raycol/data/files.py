"""Open, list and inspect files, given as paths or URIs; lines are decompressed."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.fs as pafs

from raycol.core.uris import failure_message, is_uri, join_uri, open_uri, without_options
from raycol.errors import InputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
# Limit on one decompressed record in a file of lines, in bytes: a line that never ends would fill the memory.
MAX_RECORD_BYTES = 1 << 26
TOO_LARGE = f"the record exceeds the limit of {MAX_RECORD_BYTES >> 20} MiB"
# `zstd --long=31` writes windows of 2 GiB; decompression needs memory for the window that the file was written with.
_LARGEST_ZSTD_WINDOW_LOG = 31

# Files of a folder from which on listing it takes less time than asking for each.
_LISTED = 16

HUB = "hf:"
IR_DATASETS = "ir:"


def path_kind(location: str | Path) -> Literal["file", "folder", "nothing"]:
    """Whether a path or URI is a file, a folder or absent. Raises `InputError` if it cannot be accessed."""
    with reading(location):
        system, path, _ = locate(str(location))
        kind = system.get_file_info(path).type
    return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(kind, "nothing")  # type: ignore[return-value]


def list_folder(location: str) -> list[str]:
    """Sorted names of the entries of a folder; empty if there is no such folder."""
    with reading(location):
        system, path, _ = locate(location)
        return sorted(info.base_name for info in system.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


def find_file(folder: str | Path, name: str) -> str:
    """Path or URI of a file in a folder; a compression suffix after the name is allowed. The file need not exist.

    Raises:
        InputError: several files match.
    """
    plain = join_uri(str(folder), name)
    base = PurePosixPath(name).name
    matches = [other for other in list_folder(parent_folder(plain)) if base in (other, uncompressed_name(other))]
    if len(matches) > 1:
        raise InputError(f"{folder}: holds {' and '.join(matches)}; keep one of them")
    return join_uri(str(folder), str(PurePosixPath(name).with_name(matches[0]))) if matches else plain


def parent_folder(location: str) -> str:
    """Path or URI of the parent folder."""
    _, path, uri_of = locate(location)
    return uri_of(str(PurePosixPath(path).parent))


def locate(corpus: str) -> tuple[pafs.FileSystem, str, Callable[[str], str]]:
    """The file system, the path in it, and a function from such paths to paths or URIs that can be opened."""
    if not is_uri(corpus):
        return pafs.LocalFileSystem(), os.path.abspath(corpus), str
    opened = open_uri(corpus)
    return opened.system, opened.path, opened.uri_of


def compression_of(path: str) -> str | None:
    """Compression of a file of lines, from its suffix; None if uncompressed."""
    return COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)


def uncompressed_name(name: str) -> str:
    """Name of a file without the suffix of its compression."""
    return str(PurePosixPath(name).with_suffix("")) if compression_of(name) else name


@contextmanager
def open_file(uri: str) -> Iterator[pa.NativeFile]:
    """Open a file for random access.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with reading(uri):
        system, path, _ = locate(uri)
        with system.open_input_file(path) as file:
            yield file


@contextmanager
def open_lines(uri: str, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file of lines at an offset in bytes of its content, decompressed if its suffix says so.

    Raises:
        InputError: the file is missing, cannot be read, or is damaged.
    """
    with reading(uri):
        system, path, _ = locate(uri)
        compression = compression_of(path)
        raw = system.open_input_file(path)
        if compression:
            raw = decompressed(raw, compression, 1 << 20)
        else:
            raw.seek(offset)
        with io.BufferedReader(raw, 1 << 20) as file:
            remaining = offset if compression else 0
            while remaining and (skipped := len(file.read(min(remaining, 1 << 20)))):
                remaining -= skipped
            yield cast(BinaryIO, file)


def decompressed(raw: pa.NativeFile, compression: str, buffer_size: int) -> Any:
    """Decompressing stream over an open file; closing it closes the file. Damaged content raises `OSError`."""
    if compression == "gzip":
        return pa.CompressedInputStream(raw, compression)
    return _Decompressed(io.BufferedReader(cast(Any, raw), buffer_size), compression)


class _Decompressed(io.RawIOBase):
    """Decompressing stream over a file of one or several members; an empty file has no content."""

    def __init__(self, raw: IO[bytes], compression: str) -> None:
        self._raw = raw
        self._damage: tuple[type[Exception], ...] = (EOFError, lzma.LZMAError)
        self._file: Any
        if compression == "bz2":
            self._file = bz2.BZ2File(raw)
        elif compression == "xz":
            self._file = lzma.LZMAFile(raw)  # noqa: SIM115
        else:  # Arrow refuses windows above 128 MiB
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
            options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _LARGEST_ZSTD_WINDOW_LOG}
            self._file = zstd.ZstdFile(raw, options=options)
            self._damage += (zstd.ZstdError,)

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`. Raises `OSError` if the file is damaged."""
        try:
            return int(self._file.readinto(buffer))
        except self._damage as error:
            if not self._raw.tell():
                return 0
            raise OSError(str(error)) from None

    def close(self) -> None:
        """See `io.RawIOBase`."""
        if not self.closed:
            self._file.close()
            self._raw.close()
        super().close()


def lines_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line with its size in bytes; a line above `MAX_RECORD_BYTES` is cut one byte after the limit."""
    while line := file.readline(MAX_RECORD_BYTES + 1):
        n_bytes = len(line)
        more = line
        while n_bytes > MAX_RECORD_BYTES and more and not more.endswith(b"\n"):
            more = file.readline(1 << 20)
            n_bytes += len(more)
        yield line, n_bytes


def size_of(uri: str) -> int:
    """Size of a file in bytes."""
    with reading(uri):
        system, path, _ = locate(uri)
        return int(system.get_file_info(path).size)


def file_state(uri: str) -> str:
    """Size and modification time of a file; comparing them detects a change."""
    with reading(uri):
        system, path, _ = locate(uri)
        return _state(system.get_file_info(path))


def sizes_and_states(uris: Sequence[str]) -> tuple[list[int], list[str]]:
    """Size and `file_state` of files, with one request for a folder of which many are asked for.

    Raises:
        InputError: a file is missing or cannot be accessed.
    """
    located = [locate(uri) for uri in uris]
    infos: dict[tuple[str, str], pafs.FileInfo] = {}
    by_folder: dict[tuple[str, str], list[int]] = {}
    for number, (system, path, _) in enumerate(located):
        by_folder.setdefault((system.type_name, str(PurePosixPath(path).parent)), []).append(number)
    for (kind, folder), numbers in by_folder.items():
        system = located[numbers[0]][0]
        with reading(uris[numbers[0]]):
            if len(numbers) >= _LISTED:
                found = system.get_file_info(pafs.FileSelector(folder))
            else:
                found = system.get_file_info([located[number][1] for number in numbers])
        infos |= {(kind, info.path): info for info in found}
    sizes, states = [], []
    for uri, (system, path, _) in zip(uris, located, strict=True):
        info = infos.get((system.type_name, path))
        if info is None or info.type != pafs.FileType.File:
            raise InputError(f"{without_options(uri)}: no such file")
        sizes.append(int(info.size))
        states.append(_state(info))
    return sizes, states


def _state(info: pafs.FileInfo) -> str:
    return f"{info.size} {info.mtime_ns}"


def folder_state(folder: str, pattern: str) -> str:
    """State of all files below a folder that match a pattern; see `file_state`."""
    with reading(folder):
        if is_uri(folder):
            system, path, _ = locate(folder)
            infos = sorted(system.get_file_info(pafs.FileSelector(path, recursive=True)), key=lambda info: info.path)
            return " ".join(f"{info.size} {info.mtime_ns}" for info in infos if fnmatch(info.base_name, pattern))
        states = [path.stat() for path in sorted(Path(folder).rglob(pattern))]
    return " ".join(f"{state.st_ino} {state.st_size} {state.st_mtime_ns}" for state in states)


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn errors of the file system and of Arrow into an `InputError` that names what is read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{without_options(str(name))}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(name, "cannot be read", error)) from None
