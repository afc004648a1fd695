"""A store in a local folder. Files are flushed before they are renamed or linked, so every name has whole content."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.core.locks import file_lock
from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.storage.checked_files import (
    FileInfo,
    Files,
    check_contents,
    digest,
    fsync_folder,
    map_file,
    open_checked,
    save_bytes,
)
from raycol.storage.store import LOCK, MANIFESTS, UNFINISHED, Store

# Attempts to write a file while concurrent vacuums delete it as unfinished.
_ATTEMPTS = 20


class LocalStore(Store):
    """A local folder."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self._created: list[Path] = []
        self._flushed: set[Path] = set()
        self.root = root
        self.uri = str(root)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self.root.absolute(),)

    def location(self, name: str) -> str:
        """Path of a file or folder, for messages."""
        return str(self.root / name)

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly under a folder."""
        path = self.root / folder
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:  # no permission, too long a name
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    def walk(self) -> Iterator[str]:
        """Yield the names of everything that is not a folder: files, links, devices."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            inside = os.path.relpath(folder, self.root)
            prefix = "" if inside == os.curdir else f"{inside}/"
            yield from (f"{prefix}{name}" for name in sorted([*files, *links]))

    def read(self, name: str, limit: int) -> bytes:
        """Return at most `limit` + 1 bytes of a file."""
        with os.fdopen(self._open(name), "rb") as file:
            return file.read(limit + 1)

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a plain file."""
        with os.fdopen(self._open(name), "rb") as plain, pa.PythonFile(plain, "r") as file:
            yield file

    def describe(self, name: str) -> FileInfo | None:
        """Return the length and checksum of a file; None if it is missing or not a plain file."""
        try:
            descriptor = self._open(name)
        except PermissionError as error:
            raise RaycolError(f"{self.location(name)}: cannot be read ({error.strerror})") from None
        except (OSError, IndexCorruptError):
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return FileInfo(bytes=os.fstat(descriptor).st_size, xxh3=digest(file))

    def check_lengths(self, folders: Mapping[str, Files]) -> None:
        """Open every file, which checks its length."""
        for folder, files in folders.items():
            path = self.folder(folder, files)
            for name, info in files.items():
                os.close(open_checked(path / name, info.bytes))

    def mapped(self, folder: str, name: str, info: FileInfo, start: int, stop: int) -> tuple[int, NDArray[np.uint8]]:
        """Map the whole file, whatever is asked for."""
        return 0, map_file(self._inside(f"{folder}/{name}"), info.bytes)

    def folder(self, name: str, files: Files) -> Path:
        """Return the folder itself; nothing is copied."""
        return self._inside(f"{name}/")

    @contextmanager
    def workspace(self, base: int) -> Iterator[Path]:
        """Return a new folder on the same file system, so that `publish` only renames it."""
        folder = self.root / self._unfinished(base)
        with writing(self.uri):
            self._make_folder(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Rename a folder; its files are already flushed."""
        final = self.root / name
        with writing(self.uri):
            self._make_folder(final.parent)
            fsync_folder(folder)
            try:
                os.rename(folder, final)
            except OSError:
                if not final.is_dir():
                    raise
                if not self._is_whole(name, files):  # damaged after it was written
                    self._repair(folder, name)
            self._fsync_up(final.parent)

    def _repair(self, folder: Path, name: str) -> None:
        """Replace the files of a damaged folder one by one, so that no file is ever missing.

        A version may already refer to the folder, and another writer may be repairing it too.
        """
        final = self.root / name
        if final.is_symlink():
            final.unlink()
            os.rename(folder, final)
            return
        for path in sorted(folder.iterdir()):
            if (final / path.name).is_dir() and not (final / path.name).is_symlink():
                self.remove(f"{name}/{path.name}")
            os.replace(path, final / path.name)
        fsync_folder(final)

    def _is_whole(self, name: str, files: Files) -> bool:
        try:
            check_contents(self.folder(name, files), files)
        except IndexCorruptError:
            return False
        return True

    def create(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Write an unfinished file, flush it, call `check`, and link it to its name, which fails if the name is taken.

        A name is never used twice, although vacuums free names. If another writer takes the name after `check` and a
        vacuum retires it, that vacuum has first deleted this writer's unfinished file, because it belongs to an older
        version; so the link fails.
        """
        unfinished = self._write_unfinished(content, _base_of(name))
        final = self.root / name
        try:
            self._make_folder(final.parent)
            check()
            try:
                os.link(unfinished, final)
            except FileNotFoundError:
                if unfinished.exists():
                    raise
                raise FileExistsError(name) from None
        finally:
            with suppress(OSError):
                unfinished.unlink()
        self._fsync_up(final.parent)

    def retire(self, name: str) -> None:
        """Delete a file; `create` explains why its name is not used again."""
        self.remove(name)

    def write(self, name: str, content: bytes) -> None:
        """Write an unfinished file, flush it, and rename it."""
        final = self.root / name
        with writing(final):
            for attempt in range(_ATTEMPTS):
                unfinished = self._write_unfinished(content, self._newest())
                try:
                    self._make_folder(final.parent)
                    os.replace(unfinished, final)
                    break
                except FileNotFoundError:  # a vacuum deleted it as the leftover of a dead writer
                    if attempt == _ATTEMPTS - 1:
                        raise
                except OSError:
                    unfinished.unlink(missing_ok=True)
                    raise
            self._fsync_up(final.parent)

    def _newest(self) -> int:
        """The newest version, or 0. Vacuums keep unfinished files of writers that started from it."""
        return max((int(name[:8]) for name in self.names(MANIFESTS) if name[:8].isdigit()), default=0)

    def remove(self, name: str) -> None:
        """Delete a file or a folder. A folder is renamed first, so that its name never means partial contents."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            doomed = self.root / self._unfinished(_base_of(name))
            with suppress(FileNotFoundError):  # another process deletes it, or a folder above it, at the same time
                os.rename(path, doomed)
                fsync_folder(path.parent)
            shutil.rmtree(doomed, onerror=_raise_unless_missing)
        else:
            path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                fsync_folder(path.parent)

    def remove_empty_folder(self, name: str) -> None:
        """Delete a folder if nothing is in it; a writer creates it again."""
        with suppress(OSError):
            (self.root / name).rmdir()

    @contextmanager
    def lock(self, doing: str) -> Iterator[None]:
        """Hold a lock file, which the system releases when the process ends; delete it, and then an empty folder."""
        self.check_writable()
        path = self.root / LOCK
        try:
            with ExitStack() as stack:
                with writing(self.uri):
                    self._make_folder(self.root)
                    stack.enter_context(file_lock(path, doing))
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
        finally:
            with suppress(OSError):  # not empty, or deleted
                self.root.rmdir()
            self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Delete the empty folders that this store created."""
        for path in reversed(self._created):
            with suppress(OSError):
                path.rmdir()

    def check_writable(self) -> None:
        """Raise `InputError` if the folder, or its nearest existing parent, is a file or not writable."""
        existing = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise InputError(f"{existing} is a file; expected a folder, or a new name")
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a full disk is not an input error
                return
            raise InputError(
                f"{existing}: cannot be written ({error.strerror}); expected a folder that this user may write"
            ) from None

    def why_not_an_index(self) -> str:
        """Describe what the folder holds."""
        if not self.root.exists():
            return "no such folder; expected the folder of an index (build one with: raycol index build)"
        if not self.root.is_dir():
            return "is a file; expected the folder of an index (build one with: raycol index build)"
        if (self.root / "partitions").is_dir():
            return "an unfinished build; run the same build again to finish it (no manifests/ in this folder)"
        return "not an index (no manifests/ in this folder)"

    def _open(self, name: str) -> int:
        """Return a descriptor of a plain file. Raises `OSError` for anything else; opening a FIFO would block."""
        descriptor = os.open(self._inside(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("not a plain file")
        return descriptor

    def _inside(self, name: str) -> Path:
        """Return the path of a name. Raises on symbolic links: an untrusted index must not lead outside itself."""
        path = os.path.join(self.root, name)
        parent = os.path.dirname(path)
        for _ in range(name.count("/")):
            if os.path.islink(parent):
                raise IndexCorruptError(f"{parent}: a symbolic link; an index holds plain folders only")
            parent = os.path.dirname(parent)
        return Path(path)

    def _unfinished(self, base: int) -> str:
        return f"{base:08d}-{UNFINISHED}-{uuid.uuid4().hex}"

    def _write_unfinished(self, content: bytes, base: int) -> Path:
        self._make_folder(self.root)
        path = self.root / self._unfinished(base)
        try:
            save_bytes(path, content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _make_folder(self, path: Path) -> None:
        """Create a folder and its parents."""
        for attempt in range(5):
            try:
                while not path.is_dir():
                    missing = path
                    while not missing.parent.is_dir():
                        missing = missing.parent
                    missing.mkdir(exist_ok=True)
                    self._created.append(missing)
                return
            except FileNotFoundError:  # a refused build deleted an empty parent at the same time
                if attempt == 4:
                    raise

    def _fsync_up(self, folder: Path) -> None:
        """Flush a folder's entries and, once per store, those of its parents up to the root.

        The process that created those folders may have died before it flushed them.
        """
        fsync_folder(folder)
        while folder not in self._flushed and folder != self.root.parent:
            fsync_folder(folder.parent)
            self._flushed.add(folder)
            folder = folder.parent


def _raise_unless_missing(_: Any, __: str, error: Any) -> None:
    """Error handler of `shutil.rmtree` that ignores files which another process has deleted."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _base_of(name: str) -> int:
    """Version that the writer of a file started from: the number in its name, less one for a manifest."""
    last = name.rpartition("/")[2]
    number = int(last[:8]) if last[:8].isdigit() else 0
    return max(0, number - 1) if last.endswith(".json") else number
