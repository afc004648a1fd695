"""Files of an index: written whole or not at all, with a checksum; read memory-mapped.

Everything is written under a temporary name, flushed to the disk (fsync) and renamed. Arrays are `.npy`,
tables Parquet, the rest JSON; nothing is ever pickled.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from raycol.errors import IndexCorruptError, writing

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class FileInfo(BaseModel):
    """What the manifest promises of a file: its length in bytes and its XXH3 128-bit checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    xxh3: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def check_name(name: str) -> str:
    """Return a file or folder name read from a manifest, or raise: it must not lead out of the index."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


Name = Annotated[str, AfterValidator(check_name)]
Files = dict[Name, FileInfo]


def describe_file(path: Path) -> FileInfo:
    """Length and checksum of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileInfo(bytes=path.stat().st_size, xxh3=digest.hexdigest())


def content_name(files: Files) -> str:
    """A name for a set of files made from their contents, so that equal contents have one name."""
    lines = [f"{name} {info.bytes} {info.xxh3}" for name, info in sorted(files.items())]
    return xxhash.xxh3_64("\n".join(lines).encode()).hexdigest()


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder under `parent` for files on their way; gone at the end unless renamed."""
    folder = parent / f"unfinished-{uuid.uuid4().hex}"
    with writing(parent):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what writers that died left under `parent`."""
    for path in parent.glob("unfinished-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def finish_folder(unfinished: Path, final: Path) -> None:
    """Flush a folder's files to the disk and give it its name, at once. Contents name it, so one is enough."""
    for file in unfinished.iterdir():
        _fsync(file)
    _fsync(unfinished)
    try:
        os.rename(unfinished, final)
    except OSError:
        if not final.exists():
            raise
    _fsync(final.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all, replacing what stood there."""
    unfinished = _write_unfinished(path, content)
    os.replace(unfinished, path)
    _fsync(path.parent)


def create_file(path: Path, content: bytes) -> None:
    """Write a new file whole, or not at all. Raises `FileExistsError` where another was first."""
    unfinished = _write_unfinished(path, content)
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink()
    _fsync(path.parent)


def save_array(path: Path, array: NDArray[Any]) -> FileInfo:
    """Write an array as `.npy`."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return describe_file(path)


def open_array(folder: Path, name: str, files: Files, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map an array, checked against its promised length, dtype and shape."""
    path = folder / name
    check_length(path, files.get(name))
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise IndexCorruptError(f"{path}: not a readable .npy file ({error})") from None
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise IndexCorruptError(
            f"{path}: holds {array.dtype} {array.shape}; the manifest promises {np.dtype(dtype)} {shape}"
        )
    return array


def check_length(path: Path, info: FileInfo | None) -> None:
    """Raise `IndexCorruptError` where a file is missing or not as long as promised."""
    if info is None:
        raise IndexCorruptError(f"{path}: the manifest does not list this file")
    try:
        found = path.stat().st_size
    except OSError as error:
        raise IndexCorruptError(f"{path}: {error.strerror}; restore the file or rebuild the index") from None
    if found != info.bytes:
        raise IndexCorruptError(f"{path}: {found} bytes; the manifest promises {info.bytes}")


def verify_files(folder: Path, files: Files) -> Iterator[str]:
    """Read every file of a folder; yield one line for each that is not as promised."""
    for name, info in sorted(files.items()):
        try:
            check_length(folder / name, info)
        except IndexCorruptError as error:
            yield str(error)
            continue
        if describe_file(folder / name) != info:
            yield f"{folder / name}: the checksum differs from the manifest's"
    if folder.is_dir():
        yield from (f"{path}: not in the manifest" for path in sorted(folder.iterdir()) if path.name not in files)


def _write_unfinished(path: Path, content: bytes) -> Path:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        _fsync(path.parent.parent)
    unfinished = path.with_name(f"unfinished-{uuid.uuid4().hex}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
