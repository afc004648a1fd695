"""A local cache of an object store's folders, whose files are memory-mapped.

    $RAYCOL_CACHE/indexes/<hash of the store's location>/<folder>/<file>

A file is downloaded under a temporary name, checked, flushed and renamed, so a file under its final name is always
whole, also after a crash and with concurrent processes: one downloads, the others wait.

With RAYCOL_CACHE_BYTES set, the least recently used folders are evicted. A mapped file stays readable after it is
deleted, so only folders whose files are just being opened must not be evicted: those used in the last ten minutes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.storage.checked_files import fsync_folder, open_checked

_IN_USE_S = 600.0
# A folder's mtime is its time of use; it is updated at most once in this interval.
_TOUCH_EVERY_S = 60.0
# The cache is measured again after this fraction of the limit has been downloaded: 1/50.
_MEASURE_FRACTION = 50

# Downloads the file of a name to a path, or raises.
Download = Callable[[str, Path], None]


def cache_root() -> Path:
    """Folder of all caches of object stores on this machine."""
    return Path(os.environ.get("RAYCOL_CACHE") or Path.home() / ".cache" / "raycol")


def cache_folder() -> Path:
    """Folder of the cached files of stores: indexes, and the state of trainings."""
    return cache_root() / "indexes"


def cache_limit() -> int | None:
    """Maximum size of the cache in bytes; None for no limit. Raises `InputError` for an invalid RAYCOL_CACHE_BYTES."""
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
    """The cached files of one store.

    Args:
        store: identifies the store, so that no two share files.
    """

    def __init__(self, store: str) -> None:
        self._all = cache_folder()
        self._root = self._all / xxhash.xxh3_64_hexdigest(store.encode())
        self._limit = cache_limit()
        self._unmeasured: int | None = None

    def folder(self, name: str, lengths: Mapping[str, int], download: Download) -> Path:
        """Return a folder with files of these lengths in bytes; missing or incomplete ones are downloaded.

        Raises:
            RaycolError: the cache cannot be written, or a download failed.
            IndexCorruptError: `download` found a file that differs from its manifest entry.
        """
        final = self._root / name
        missing = [file for file, n_bytes in lengths.items() if not _is_whole(final / file, n_bytes)]
        for file in missing:
            self._evict(lengths[file])
            with self._locked(final):
                if not _is_whole(final / file, lengths[file]):  # another process may have downloaded it
                    self._fetch(final, file, download)
        self._touch(final)
        return final

    def holds(self, name: str, n_bytes: int) -> bool:
        """Whether a file is there, and has this length."""
        return _is_whole(self._root / name, n_bytes)

    def forget(self, name: str) -> None:
        """Delete the cached copy of a folder or file, if it exists."""
        path = self._root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def forget_file(self, folder: str, name: str) -> None:
        """Delete the copies of a file and of its parts."""
        for path in (self._root / folder).glob(f"{name}*"):
            with suppress(OSError):
                path.unlink()

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
        """Create a folder and lock it against other processes.

        The lock avoids duplicate downloads and eviction; on a file system without locks nothing breaks.
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
                os.close(descriptor)  # it was evicted while this process waited for the lock
        try:
            yield
        finally:
            os.close(descriptor)

    def _touch(self, folder: Path) -> None:
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _TOUCH_EVERY_S:
                os.utime(folder)

    def _evict(self, incoming: int) -> None:
        """Delete the least recently used folders so that `incoming` bytes fit under the limit."""
        if self._limit is None:
            return
        if self._unmeasured is not None and self._unmeasured + incoming < self._limit // _MEASURE_FRACTION:
            self._unmeasured += incoming
            return
        self._unmeasured = incoming
        folders = sorted(_folders(self._all))
        total = sum(size for _, size, _ in folders) + incoming
        for used, size, folder in folders:
            if total <= self._limit or time.time() - used < _IN_USE_S:
                break
            if _remove_unlocked(folder):
                total -= size


def _folders(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield the time of last use, the size in bytes and the path of each folder that holds files."""
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
    """Delete a folder unless a process is downloading into it; return whether it was deleted."""
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


def _is_whole(path: Path, n_bytes: int) -> bool:
    try:
        os.close(open_checked(path, n_bytes))
    except (IndexCorruptError, RaycolError):
        return False
    return True
