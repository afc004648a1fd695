"""A store: where the folders and manifests of one index are kept, whatever the medium.

What a medium must do is little: publish a finished folder, create a file that does not exist yet or fail, list,
read, remove. Names are relative, with `/` between parts; a store never resolves anything outside itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa

from raycol.core.uris import is_uri
from raycol.storage.checked_files import FileInfo, Files, check_contents

UNFINISHED = "unfinished"
MANIFESTS = "manifests"


class Store(ABC):
    """One index's bytes. `uri` opens it again, from any process; `str` names it in messages."""

    uri: str
    is_local: bool

    def __str__(self) -> str:
        return self.uri

    def location(self, name: str) -> str:
        """How messages name something in here."""
        return f"{str(self).rstrip('/')}/{name}"

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names directly under a folder (`""` for the top), sorted; none where there is no such folder."""

    @abstractmethod
    def walk(self) -> Iterator[str]:
        """The names of all files."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """A file's contents, one byte more than `limit` at most.

        Raises `FileNotFoundError`, and whatever else the medium says: `OSError` or, of an object store, `RaycolError`.
        """

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[pa.NativeFile]:
        """A file, for reading anywhere in it. Raises as `read` does."""

    @abstractmethod
    def describe(self, name: str) -> FileInfo | None:
        """Length and checksum of a file as it stands there, read whole; None where it is missing or no file."""

    @abstractmethod
    def check_lengths(self, folder: str, files: Files) -> None:
        """Raise `IndexCorruptError` where a file of a folder is missing or not as long as promised."""

    @abstractmethod
    def folder(self, name: str, files: Files) -> Path:
        """A local folder that holds these files of a folder, for reading; they are opened by `open_checked`."""

    def checked(self, name: str, files: Files) -> Path:
        """The same, once every byte was compared. Raises `IndexCorruptError` at the first file not as promised."""
        folder = self.folder(name, files)
        check_contents(folder, files)
        return folder

    @abstractmethod
    def workspace(self, base: int) -> AbstractContextManager[Path]:
        """A fresh local folder for files on their way in, for a writer that started from version `base`."""

    @abstractmethod
    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Give a folder in the workspace its name, whole.

        Folders are named after their contents: where one of the name is there, and whole, that one is as good.
        """

    @abstractmethod
    def create(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Write a new file, whole or not at all.

        Args:
            name: begins with the number of a version.
            content: the file's content.
            check: called once the file is on its way, before it has its name; may raise. What it saw holds until then:
                the file is given up if a vacuum has since retired a file of its name or of a later version.

        Raises:
            FileExistsError: the name is taken, or was.
        """

    @abstractmethod
    def retire(self, name: str) -> None:
        """Remove a file that `create` has written; its name is never given again to a writer that is at work."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of what stood there. Raises `RaycolError` if it cannot."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a folder and what is in it, if it is there."""

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Leave nothing behind where a build was refused before anything was written."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise where nothing can be put: a file where the folder should be, no bucket, no permission."""

    def check_commits(self) -> None:  # noqa: B027
        """Raise where `create` would not fail for an object that is there, so that writers could lose versions."""

    @abstractmethod
    def why_not_an_index(self) -> str:
        """What stands here, where there are no manifests."""


def absolute(uri: str | Path) -> str:
    """A location as any process may open it, whatever its working directory."""
    return str(uri) if is_uri(uri) else str(Path(uri).absolute())
