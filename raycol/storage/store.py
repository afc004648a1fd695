"""A store: the folders and manifests of an index, independent of the storage medium.

A medium must publish a finished folder, create a file only if it does not exist, list, read and delete. Names are
relative and use `/`; a store never resolves a name to anything outside itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.core.uris import is_uri
from raycol.storage.checked_files import FileInfo, Files, check_contents, content_name, describe_file, fsync_tree

UNFINISHED = "unfinished"
MANIFESTS = "manifests"
LOCK = ".lock"


class Store(ABC):
    """The files of an index. Any process can open it by its `uri`; `str` gives its name in messages."""

    uri: str
    is_local: bool

    def __str__(self) -> str:
        return self.uri

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Serialise as the location: Ray passes stores to workers."""

    def location(self, name: str) -> str:
        """Path or URI of a file or folder in the store, for messages."""
        return f"{str(self).rstrip('/')}/{name}"

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly under a folder (`""` for the top); empty if the folder does not exist."""

    @abstractmethod
    def walk(self) -> Iterator[str]:
        """Yield the names of all files."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """Return at most `limit` + 1 bytes of a file, so that the caller can tell when it is too large.

        Raises:
            FileNotFoundError: no such file.
            OSError: another failure of a local folder.
            RaycolError: another failure of an object store.
        """

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[pa.NativeFile]:
        """Open a file for random access. Raises as `read` does."""

    @abstractmethod
    def describe(self, name: str) -> FileInfo | None:
        """Read a file and return its length and checksum; None if it is missing or not a plain file."""

    @abstractmethod
    def check_lengths(self, folders: Mapping[str, Files]) -> None:
        """Raise `IndexCorruptError` if a file of a folder is missing or differs from its promised length."""

    @abstractmethod
    def folder(self, name: str, files: Files) -> Path:
        """Return a local folder with these files of a stored folder, to be read by `open_checked`."""

    @abstractmethod
    def mapped(self, folder: str, name: str, info: FileInfo, start: int, stop: int) -> tuple[int, NDArray[np.uint8]]:
        """Memory-map the bytes from `start` to `stop` of a file, or more; checks lengths, not checksums.

        Returns:
            The position in the file of the first byte that is mapped, and what is mapped, uint8.
        """

    def forget(self, folder: str, name: str) -> None:  # noqa: B027
        """Delete the copies of a file and of its parts on this machine, if the medium is elsewhere."""

    def checked(self, name: str, files: Files) -> Path:
        """Return `folder` after comparing all checksums. Raises `IndexCorruptError` at the first difference."""
        folder = self.folder(name, files)
        check_contents(folder, files)
        return folder

    @abstractmethod
    def workspace(self, base: int) -> AbstractContextManager[Path]:
        """Return a new local folder for a writer that started from version `base`; it is deleted on exit."""

    @abstractmethod
    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Give a folder of the workspace its final name, whole.

        Folders are named after their contents, so an intact folder of the same name is kept in its place.
        """

    @abstractmethod
    def create(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Write a new file, whole or not at all.

        Args:
            name: begins with the number of a version.
            content: the file's content.
            check: called after the content is written and before it gets its name; may raise. Its outcome still holds
                when the file appears: if a vacuum has meanwhile retired a file of this or a later version, the new
                file is discarded.

        Raises:
            FileExistsError: the name is taken, or was before it was retired.
        """

    @abstractmethod
    def retire(self, name: str) -> None:
        """Delete a file written by `create`; no writer running at that time can create the name again."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file, whole or not at all. Raises `RaycolError` if it cannot be written."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, or a folder with its contents, if it exists."""

    def remove_all(self, names: Sequence[str]) -> None:
        """Delete several files or folders, if they exist."""
        for name in names:
            self.remove(name)

    def clear(self) -> None:
        """Delete everything but the lock."""
        for name in self.names(""):
            if name != LOCK:
                self.remove(name)

    def remove_unfinished(self) -> None:
        """Delete what killed writers left. Only safe while no writer is running."""
        for name in self.names(""):
            if UNFINISHED in name:
                self.remove(name)

    def remove_empty_folder(self, name: str) -> None:  # noqa: B027
        """Delete a folder if nothing is in it, also while others write; without effect where there are no folders."""

    def lock(self, doing: str) -> AbstractContextManager[None]:
        """Keep other commands out while the block runs, where the medium has locks.

        Args:
            doing: what the command does, for the message of another one that finds the store locked.

        Raises:
            InputError: another command holds the lock.
        """
        return nullcontext()

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Delete empty folders that this store created, after a build was refused before it wrote anything."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise if the store cannot be written: the folder is a file, no bucket, no permission."""

    def check_commits(self) -> None:  # noqa: B027
        """Raise if `create` may overwrite an existing object, so that writers could lose each other's versions."""

    @abstractmethod
    def why_not_an_index(self) -> str:
        """Describe what the location holds, given that it has no manifests."""


class StoredFolder(BaseModel):
    """A folder of a store, with the size and checksum of each file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    files: Files

    def open(self, store: Store) -> Path:
        """Return a local folder with these files, after comparing all checksums. Raises `IndexCorruptError`."""
        return store.checked(self.folder, self.files)

    def file(self, store: Store, name: str) -> Path:
        """Return the local path of one of the files; in an object store, only that one is downloaded."""
        return store.folder(self.folder, {name: self.files[name]}) / name

    def is_intact(self, store: Store) -> bool:
        """Whether every file exists with its checksum."""
        return all(store.describe(f"{self.folder}/{name}") == info for name, info in self.files.items())


def save_folder(store: Store, workspace: Path, parent: str, base: int = 0) -> StoredFolder:
    """Move a workspace's files to a folder under `parent` in the store, named `base` and a hash of their contents.

    `""` is the top of the store.
    """
    files = {path.name: describe_file(path) for path in sorted(workspace.iterdir())}
    fsync_tree(workspace)
    name = f"{parent}/{content_name(base, files)}".removeprefix("/")
    store.publish(workspace, name, files)
    return StoredFolder(folder=name, files=files)


def absolute(uri: str | Path) -> str:
    """Return a URI, or an absolute path, that processes in other working directories can open."""
    return str(uri) if is_uri(uri) else str(Path(uri).absolute())
