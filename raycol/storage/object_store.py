"""A store in an object store: no rename, no folders, whole objects only.

Objects appear whole when their upload ends. A partition's objects are uploaded under its final name, which nothing
refers to before its manifest is there. The manifest is created on the condition that there is none: of two writers,
one gets through. For reading, folders are copied to a local cache and mapped there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from raycol.core.uris import failure_message, missing_bucket, open_uri, without_options
from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.storage.cache import Cache
from raycol.storage.checked_files import FileInfo, Files, check_contents, describe_file, digest
from raycol.storage.object_writes import ObjectWriter
from raycol.storage.store import MANIFESTS, Store

_CHUNK = 4 << 20
_TRIES = 5
_MARKS = 5_000


class RemoteStore(Store):
    """A prefix of an object store: read by pyarrow.fs, written by obstore.

    Credentials come from the environment or the machine's role.
    """

    is_local = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._shown = without_options(uri).rstrip("/")
        self._opened = open_uri(uri)
        self._fs, self._prefix = self._opened.system, self._opened.path
        self._writer = ObjectWriter(self._opened, self._shown)
        self._cache = Cache(f"{self._fs.type_name} {self._opened.endpoint} {self._prefix}")

    def __str__(self) -> str:
        return self._shown

    def names(self, folder: str) -> list[str]:
        """Names directly under a folder, but for those of retired objects."""
        return sorted(info.base_name for info in self._list(folder) if not self._is_retired(info))

    def walk(self) -> Iterator[str]:
        """The names of all objects."""
        for info in sorted(self._list("", recursive=True), key=lambda info: info.path):
            if info.type == pafs.FileType.File and not self._is_retired(info):
                yield info.path[len(self._prefix) + 1 :]

    def read(self, name: str, limit: int) -> bytes:
        """An object's contents. A manifest that has been retired since it was listed is not found."""
        try:
            with self._reading(name), self._fs.open_input_stream(self._path(name), compression=None) as stream:
                content: bytes = stream.read(limit + 1)
        except RaycolError:
            # pyarrow asks for the length first. What is retired before its contents are asked for no longer has the
            # bytes of that length, and the store refuses the range.
            if self._is_retired_now(name):
                raise FileNotFoundError(name) from None
            raise
        if not content and name.startswith(f"{MANIFESTS}/"):
            raise FileNotFoundError(name)
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """An object, of which only what is read is fetched."""
        with self._reading(name):
            file = self._fs.open_input_file(self._path(name))
        with file:
            try:
                yield file
            except OSError as error:  # what is wrong with the contents is for the caller to say
                raise RaycolError(failure_message(self.location(name), "cannot be read", error)) from error

    def describe(self, name: str) -> FileInfo | None:
        """Length and checksum of an object, downloaded whole."""
        with self._reading(name):
            info = self._fs.get_file_info(self._path(name))
            if info.type != pafs.FileType.File:
                return None
            with self._fs.open_input_stream(self._path(name), compression=None) as stream:
                return FileInfo(bytes=info.size, xxh3=digest(stream))

    def check_lengths(self, folder: str, files: Files) -> None:
        """Compare with a listing."""
        found = {info.base_name: info.size for info in self._list(folder)}
        for name, info in files.items():
            if name not in found:
                raise IndexCorruptError(
                    f"{self.location(f'{folder}/{name}')}: missing; restore it or rebuild the index"
                )
            if found[name] != info.bytes:
                raise IndexCorruptError(
                    f"{self.location(f'{folder}/{name}')}: {found[name]} bytes; the manifest promises {info.bytes}; "
                    "restore it or rebuild the index"
                )

    def folder(self, name: str, files: Files) -> Path:
        """The folder's copy in the cache, with these files; downloaded and checked where they are not there whole."""
        return self._cache.folder(
            name, files, lambda file_name, path: self._download(f"{name}/{file_name}", path, files[file_name])
        )

    def checked(self, name: str, files: Files) -> Path:
        """The copy, every byte of it compared; what is damaged is downloaded again."""
        folder = self.folder(name, files)
        try:
            check_contents(folder, files)
        except IndexCorruptError:
            for file_name in files:
                self._cache.forget(f"{name}/{file_name}")
            check_contents(self.folder(name, files), files)
        return folder

    @contextmanager
    def workspace(self, base: int) -> Iterator[Path]:
        """A temporary folder on this machine."""
        with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
            yield Path(folder)

    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Upload every file of a folder under its final name, over what a writer left that died."""
        for path in sorted(folder.iterdir()):
            self._writer.put(f"{name}/{path.name}", path)

    def create(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Put an object on the condition that there is none of that name, nor the mark of a retired one.

        A request that failed may have been carried out, and one that is tried again may be refused for that reason:
        what then stands there tells.
        """
        self.check_commits()
        check()
        for _ in range(_TRIES):
            try:
                if self._writer.create(name, content):
                    return
            except RaycolError as error:
                if self._is_there(name, content, error):
                    return
                raise
            found = self._content(name, len(content))
            if found == content:
                return
            if found is not None or self._is_retired_now(name):
                break
            # Refused for the sake of another writer, which then failed: there is still none.
        raise FileExistsError(name)

    def retire(self, name: str) -> None:
        """Put an empty object in its place, so that the condition of `create` goes on to fail.

        Of these marks the newest thousands are kept: a writer that has checked, and then does nothing while so many
        versions are committed and retired, would take a name again.
        """
        self._writer.put(name, b"")
        self._cache.forget(name)
        folder = name.rpartition("/")[0]
        marks = sorted(info.base_name for info in self._list(folder) if self._is_retired(info))
        if len(marks) > 2 * _MARKS:
            self._writer.delete([f"{folder}/{mark}" for mark in marks[:-_MARKS]])

    def _is_retired(self, info: pafs.FileInfo) -> bool:
        manifests = f"{self._prefix}/{MANIFESTS}/"
        return bool(info.type == pafs.FileType.File and info.size == 0 and info.path.startswith(manifests))

    def _is_retired_now(self, name: str) -> bool:
        """Whether the store says so; an answer that does not come is no."""
        if not name.startswith(f"{MANIFESTS}/"):
            return False
        try:
            return self._is_retired(self._fs.get_file_info(self._path(name)))
        except (OSError, pa.ArrowException):
            return False

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place of what stood there."""
        self._writer.put(name, content)

    def put(self, name: str, path: Path) -> None:
        """Upload a local file, in place of what stood there."""
        self._writer.put(name, path)

    def remove(self, name: str) -> None:
        """Remove an object, or all under a prefix, and copies of them on this machine."""
        for _ in range(_TRIES):
            with self._reading(name):
                info = self._fs.get_file_info(self._path(name))
            found = self._list(name, recursive=True) if info.type == pafs.FileType.Directory else [info]
            paths = [info.path for info in found if info.type == pafs.FileType.File]
            try:
                self._writer.delete([path[len(self._prefix) + 1 :] for path in paths])
                break
            except FileNotFoundError:  # another process removes them too
                continue
        self._cache.forget(name)

    def remove_if_empty(self) -> None:
        """There are no folders to leave behind."""

    def check_writable(self) -> None:
        """Raise where nothing can be written: no bucket, no permission, no answer."""
        self._writer.check()

    def check_commits(self) -> None:
        """Raise where of two writers both would get through."""
        self._writer.check(commits=True)

    def why_not_an_index(self) -> str:
        """What stands here."""
        if bucket := missing_bucket(self._opened):
            return f"no bucket {bucket!r}; make it, or mend the name"
        if self.names("partitions"):
            return "an unfinished build; run the same build again to finish it (no manifests/ here)"
        return "not an index (no manifests/ here)"

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if name else self._prefix

    def _list(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True, recursive=recursive)
        with self._reading(folder):
            infos: list[pafs.FileInfo] = self._fs.get_file_info(selector)
            return infos

    def _content(self, name: str, limit: int) -> bytes | None:
        """What stands there, or None for nothing."""
        try:
            return self.read(name, limit)
        except FileNotFoundError:
            return None

    def _is_there(self, name: str, content: bytes, error: RaycolError) -> bool:
        """Whether a request that failed has written its object."""
        try:
            return self._content(name, len(content)) == content
        except RaycolError:
            raise RaycolError(f"{error}; it may have been written all the same: look before you try again") from None

    def _download(self, name: str, path: Path, info: FileInfo) -> None:
        try:
            with self._reading(name):
                source = self._fs.open_input_stream(self._path(name), compression=None)
        except FileNotFoundError:
            raise IndexCorruptError(f"{self.location(name)}: missing; restore it or rebuild the index") from None
        with source, path.open("wb") as file:
            while chunk := self._read_on(name, source):
                with writing(path.parent):  # a full disk is not the store's fault
                    file.write(chunk)
        found = describe_file(path)
        if found != info:
            raise IndexCorruptError(
                f"{self.location(name)}: {found.bytes} bytes with checksum {found.xxh3}; the manifest promises "
                f"{info.bytes} and {info.xxh3}; restore it or rebuild the index"
            )

    def _read_on(self, name: str, source: pa.NativeFile) -> bytes:
        with self._reading(name):
            chunk: bytes = source.read(_CHUNK)
            return chunk

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Tell what failed; but that there is no such object is for the caller to judge."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise RaycolError(failure_message(self.location(name), "cannot be read", error)) from error
