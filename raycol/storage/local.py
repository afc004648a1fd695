"""A store in a local folder: fsync, then rename or link, so that a name stands for something whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.storage.checked_files import (
    FileInfo,
    Files,
    check_contents,
    digest,
    fsync_folder,
    open_checked,
    save_bytes,
)
from raycol.storage.store import MANIFESTS, UNFINISHED, Store

# How often a file is written again that a vacuum removed on its way.
_ATTEMPTS = 20


class LocalStore(Store):
    """A folder."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self._made: list[Path] = []
        self._flushed: set[Path] = set()
        self.root = root
        self.uri = str(root)

    def location(self, name: str) -> str:
        """How messages name something in here."""
        return str(self.root / name)

    def names(self, folder: str) -> list[str]:
        """Names directly under a folder."""
        path = self.root / folder
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:  # no permission, too long a name
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    def walk(self) -> Iterator[str]:
        """The names of all files, links and whatever else is no folder."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted([*files, *links]):
                yield os.path.relpath(os.path.join(folder, name), self.root)

    def read(self, name: str, limit: int) -> bytes:
        """A file's contents."""
        with os.fdopen(self._open(name), "rb") as file:
            return file.read(limit + 1)

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """A plain file."""
        with os.fdopen(self._open(name), "rb") as plain, pa.PythonFile(plain, "r") as file:
            yield file

    def describe(self, name: str) -> FileInfo | None:
        """Length and checksum of a file as it stands there."""
        try:
            descriptor = self._open(name)
        except PermissionError as error:
            raise RaycolError(f"{self.location(name)}: cannot be read ({error.strerror})") from None
        except (OSError, IndexCorruptError):
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return FileInfo(bytes=os.fstat(descriptor).st_size, xxh3=digest(file))

    def check_lengths(self, folder: str, files: Files) -> None:
        """Open every file and close it again."""
        path = self.folder(folder, files)
        for name, info in files.items():
            os.close(open_checked(path / name, info))

    def folder(self, name: str, files: Files) -> Path:
        """The folder itself."""
        return self._inside(f"{name}/")

    @contextmanager
    def workspace(self, base: int) -> Iterator[Path]:
        """A fresh folder beside the final ones, so that renaming is enough."""
        folder = self.root / self._unfinished(base)
        with writing(self.uri):
            self._make_folder(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Rename a folder whose files are flushed already."""
        final = self.root / name
        with writing(self.uri):
            self._make_folder(final.parent)
            fsync_folder(folder)
            try:
                os.rename(folder, final)
            except OSError:
                if not final.is_dir():
                    raise
                if not self._is_whole(name, files):  # damaged since it was written
                    self._repair(folder, name)
            self._fsync_up(final.parent)

    def _repair(self, folder: Path, name: str) -> None:
        """Put every file of a folder in place of the one of its name, so that none is missing for a moment.

        A version may name the folder, and another writer have repaired it since.
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
        """Write beside, flush, check, and link to the name, which fails if the name is taken.

        Nor is a name taken twice, though vacuums free names. For the name to be free again after `check`, another
        writer must have taken it since, and a vacuum retired it. That vacuum has removed this writer's unfinished file
        before, since it began with an older version; and what is gone cannot be linked.
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
        """Remove a file; see `create`."""
        self.remove(name)

    def write(self, name: str, content: bytes) -> None:
        """Write beside, flush, and rename."""
        final = self.root / name
        with writing(final):
            for attempt in range(_ATTEMPTS):
                unfinished = self._write_unfinished(content, self._newest())
                try:
                    self._make_folder(final.parent)
                    os.replace(unfinished, final)
                    break
                except FileNotFoundError:  # a vacuum took it for what a dead writer left
                    if attempt == _ATTEMPTS - 1:
                        raise
                except OSError:
                    unfinished.unlink(missing_ok=True)
                    raise
            self._fsync_up(final.parent)

    def _newest(self) -> int:
        """The newest version of the index, whose writers' files vacuums leave alone; 0 if there is none."""
        return max((int(name[:8]) for name in self.names(MANIFESTS) if name[:8].isdigit()), default=0)

    def remove(self, name: str) -> None:
        """Remove a file or a folder; a folder under another name, so that its own never stands for part of it."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            going = self.root / self._unfinished(_base_of(name))
            with suppress(FileNotFoundError):  # another process removes it too, or the one above it
                os.rename(path, going)
                fsync_folder(path.parent)
            shutil.rmtree(going, onerror=_raise_unless_gone)
        else:
            path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                fsync_folder(path.parent)

    def remove_if_empty(self) -> None:
        """Remove the folders that were made here and hold nothing."""
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir()

    def check_writable(self) -> None:
        """Raise `InputError` where the folder, or the nearest one above it, is a file or cannot be written."""
        there = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file; expected a folder, or a new name")
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a full disk is no wrong input
                return
            raise InputError(
                f"{there}: nothing can be written there ({error.strerror}); expected a folder that this user may write"
            ) from None

    def why_not_an_index(self) -> str:
        """What stands here."""
        if not self.root.exists():
            return "no such folder; expected the folder of an index (build one with: raycol index build)"
        if not self.root.is_dir():
            return "is a file; expected the folder of an index (build one with: raycol index build)"
        if (self.root / "partitions").is_dir():
            return "an unfinished build; run the same build again to finish it (no manifests/ in this folder)"
        return "not an index (no manifests/ in this folder)"

    def _open(self, name: str) -> int:
        """A descriptor of a plain file; of nothing else, which might have to be waited for."""
        descriptor = os.open(self._inside(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("not a plain file")
        return descriptor

    def _inside(self, name: str) -> Path:
        """The path of a name, none of whose folders is a link: an index from elsewhere must not lead out of itself."""
        for parent in list(PurePosixPath(f"{name}x").parents)[:-1]:
            if (self.root / parent).is_symlink():
                raise IndexCorruptError(f"{self.root / parent}: a symbolic link; an index holds plain folders only")
        return self.root / name

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
        """Make a folder and those above it."""
        for attempt in range(5):
            try:
                while not path.is_dir():
                    missing = path
                    while not missing.parent.is_dir():
                        missing = missing.parent
                    missing.mkdir(exist_ok=True)
                    self._made.append(missing)
                return
            except FileNotFoundError:  # a build that was refused removes the empty folder that it had made
                if attempt == 4:
                    raise

    def _fsync_up(self, folder: Path) -> None:
        """Flush what is in a folder, and once in this store's life the names on the way to it.

        Whoever made those folders may have died before it could.
        """
        fsync_folder(folder)
        while folder not in self._flushed and folder != self.root.parent:
            fsync_folder(folder.parent)
            self._flushed.add(folder)
            folder = folder.parent


def _raise_unless_gone(_: Any, __: str, found: Any) -> None:
    """An error of `shutil.rmtree` that is not another process's removal of the same."""
    if not isinstance(found[1], FileNotFoundError):
        raise found[1]


def _base_of(name: str) -> int:
    """The version that the writer of a file started from: one less than a manifest's, or the number in front."""
    last = name.rpartition("/")[2]
    number = int(last[:8]) if last[:8].isdigit() else 0
    return max(0, number - 1) if last.endswith(".json") else number
