"""Copies of an object store's folders on this machine's disk, to be memory-mapped.

    $RAYCOL_CACHE/indexes/<hash of where the store is>/<folder>/<file>

A file is downloaded under a name of its own, checked, flushed and renamed: what has its name is whole, whenever a
process or the machine dies, and however many processes want it at once. One of them downloads, the others wait.

With RAYCOL_CACHE_BYTES set, folders that have not been used for longest are removed to stay under so many bytes. What
is mapped stays readable after its name is gone, so only folders in which files are just being opened must stay: those
used in the last ten minutes do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.storage.checked_files import FileInfo, Files, fsync_folder, open_checked

_IN_USE_S = 600.0
# Use is noted on the disk, so not at every one.
_NOTED_S = 60.0
# What is there is counted again once this part of the limit has been downloaded.
_COUNTED_AGAIN = 50

# Writes a file's contents to a path, or raises; with its name.
Download = Callable[[str, Path], None]


def cache_root() -> Path:
    """Where copies of what is in object stores are kept on this machine."""
    return Path(os.environ.get("RAYCOL_CACHE") or Path.home() / ".cache" / "raycol")


def cache_folder() -> Path:
    """The copies of indexes there, and of what trainings keep."""
    return cache_root() / "indexes"


def cache_limit() -> int | None:
    """How many bytes copies may take; None where there is no limit. Raises `InputError` for anything but a number."""
    text = os.environ.get("RAYCOL_CACHE_BYTES", "")
    if not text:
        return None
    try:
        limit = float(text)
        if not 0 < limit < 2**63:
            raise ValueError
    except ValueError:
        raise InputError(f"RAYCOL_CACHE_BYTES is {text!r:.60}; expected a number of bytes such as 200e9") from None
    return int(limit)


class Cache:
    """The copies of one store.

    Args:
        place: names the store, so that no two share copies.
    """

    def __init__(self, place: str) -> None:
        self._all = cache_folder()
        self._root = self._all / xxhash.xxh3_64_hexdigest(place.encode())
        self._limit = cache_limit()
        self._uncounted: int | None = None

    def folder(self, name: str, files: Files, download: Download) -> Path:
        """A folder with these files, downloaded where they are not there whole.

        Raises:
            RaycolError: the cache cannot be written.
            IndexCorruptError: what `download` raises for a file that is not as promised.
        """
        final = self._root / name
        missing = [one for one, info in files.items() if not _is_whole(final / one, info)]
        for one in missing:
            self._make_room(files[one].bytes)
            with self._locked(final):
                if not _is_whole(final / one, files[one]):  # another process may have been first
                    self._fetch(final, one, download)
        self._note_use(final)
        return final

    def forget(self, name: str) -> None:
        """Remove the copy of a folder or file, if there is one."""
        path = self._root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _fetch(self, final: Path, name: str, download: Download) -> None:
        copy = final / f"copy-{uuid.uuid4().hex}"
        try:
            download(name, copy)
            with writing(self._root):
                descriptor = os.open(copy, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(copy, final / name)
                fsync_folder(final)
        finally:
            copy.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Make a folder and keep other processes from working on it.

        The lock saves work and keeps the folder from being removed; nothing is wrong where a file system has none.
        """
        with writing(self._root):
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    descriptor = os.open(folder, os.O_RDONLY)
                except FileNotFoundError:
                    continue
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, folder):
                    break
                os.close(descriptor)  # it was removed while the lock was waited for
        try:
            yield
        finally:
            os.close(descriptor)

    def _note_use(self, folder: Path) -> None:
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _NOTED_S:
                os.utime(folder)

    def _make_room(self, wanted: int) -> None:
        """Remove what has not been used for longest, if there would be too much with so many bytes more."""
        if self._limit is None:
            return
        if self._uncounted is not None and self._uncounted + wanted < self._limit // _COUNTED_AGAIN:
            self._uncounted += wanted
            return
        self._uncounted = wanted
        folders = sorted(_folders(self._all))
        total = sum(size for _, size, _ in folders) + wanted
        for used, size, folder in folders:
            if total <= self._limit or time.time() - used < _IN_USE_S:
                break
            if _remove_unlocked(folder):
                total -= size


def _folders(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Folders that hold files: when each was last used, its bytes, and its path."""
    for folder, _, files in os.walk(root):
        if not files:
            continue
        size = 0
        for name in files:
            with suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
        with suppress(OSError):
            yield os.stat(folder).st_mtime, size, Path(folder)


def _remove_unlocked(folder: Path) -> bool:
    """Remove a folder, unless a process is downloading into it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except OSError:
        return False


def _is_whole(path: Path, info: FileInfo) -> bool:
    try:
        os.close(open_checked(path, info))
    except (IndexCorruptError, RaycolError):
        return False
    return True
