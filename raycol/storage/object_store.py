"""A store in an object store, which has neither renames nor folders.

An upload is atomic. A partition's objects are uploaded under their final names, and nothing refers to them until the
manifest exists. The manifest is created conditionally, so of two concurrent writers one succeeds. For reading, folders
are copied to a local cache and memory-mapped there.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from raycol.core.uris import failure_message, missing_bucket, open_uri, without_options
from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.storage.cache import Cache
from raycol.storage.checked_files import FileInfo, Files, check_contents, describe_file, digest, map_file
from raycol.storage.object_writes import ObjectWriter
from raycol.storage.store import MANIFESTS, Store

_CHUNK = 4 << 20
_ATTEMPTS = 5
# A listing has a thousand names: more folders than these are listed together with all beside them.
_LISTED_ALONE = 16
# Empty objects that mark retired manifests: the newest ones are kept.
_MARKERS_KEPT = 5_000


class RemoteStore(Store):
    """A prefix of an object store, read with pyarrow.fs and written with obstore.

    Credentials come from the environment or the machine's role.
    """

    is_local = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._display_uri = without_options(uri).rstrip("/")
        self._opened = open_uri(uri)
        self._fs, self._prefix = self._opened.system, self._opened.path
        self._writer = ObjectWriter(self._opened, self._display_uri)
        self._cache = Cache(f"{self._fs.type_name} {self._opened.endpoint} {self._prefix}")

    def __str__(self) -> str:
        return self._display_uri

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore, (self.uri,)

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly under a folder, without retired objects."""
        return sorted(info.base_name for info in self._list(folder) if not self._is_retired(info))

    def walk(self) -> Iterator[str]:
        """Yield the names of all objects, without retired ones."""
        for info in sorted(self._list("", recursive=True), key=lambda info: info.path):
            if info.type == pafs.FileType.File and not self._is_retired(info):
                yield info.path[len(self._prefix) + 1 :]

    def read(self, name: str, limit: int) -> bytes:
        """Return at most `limit` + 1 bytes of an object. A retired manifest raises `FileNotFoundError`."""
        try:
            with self._reading(name), self._fs.open_input_stream(self._path(name), compression=None) as stream:
                content: bytes = stream.read(limit + 1)
        except RaycolError:
            # pyarrow requests the length first. If the object is retired before its content is requested, it is empty
            # by then and the store rejects the range.
            if self._is_retired_now(name):
                raise FileNotFoundError(name) from None
            raise
        if not content and name.startswith(f"{MANIFESTS}/"):
            raise FileNotFoundError(name)
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """Open an object; only the byte ranges that are read are downloaded."""
        with self._reading(name):
            file = self._fs.open_input_file(self._path(name))
        with file:
            try:
                yield file
            except OSError as error:  # Arrow's errors about the contents are left to the caller
                raise RaycolError(failure_message(self.location(name), "cannot be read", error)) from error

    def describe(self, name: str) -> FileInfo | None:
        """Download an object and return its length and checksum; None if it is missing."""
        with self._reading(name):
            info = self._fs.get_file_info(self._path(name))
            if info.type != pafs.FileType.File:
                return None
            with self._fs.open_input_stream(self._path(name), compression=None) as stream:
                return FileInfo(bytes=info.size, xxh3=digest(stream))

    def check_lengths(self, folders: Mapping[str, Files]) -> None:
        """Compare the lengths with listings: of each folder, or of all beside it at once if many are wanted."""
        parents = Counter(folder.rpartition("/")[0] for folder in folders)
        listed: dict[str, int] = {}
        for parent in [parent for parent, count in parents.items() if parent and count > _LISTED_ALONE]:
            listed |= self._lengths(parent, recursive=True)
        for folder, files in folders.items():
            sizes = listed if parents[folder.rpartition("/")[0]] > _LISTED_ALONE else self._lengths(folder)
            for name, info in files.items():
                size = sizes.get(f"{folder}/{name}")
                if size != info.bytes:
                    found = "missing" if size is None else f"{size} bytes; the manifest promises {info.bytes}"
                    raise IndexCorruptError(
                        f"{self.location(f'{folder}/{name}')}: {found}; restore it or rebuild the index"
                    )

    def _lengths(self, folder: str, *, recursive: bool = False) -> dict[str, int]:
        prefix = len(self._prefix) + 1
        return {info.path[prefix:]: info.size for info in self._list(folder, recursive=recursive)}

    def folder(self, name: str, files: Files) -> Path:
        """Return the folder's copy in the cache; missing files are downloaded and checked."""
        lengths = {file_name: info.bytes for file_name, info in files.items()}
        return self._cache.folder(
            name, lengths, lambda file_name, path: self._download(f"{name}/{file_name}", path, files[file_name])
        )

    def mapped(self, folder: str, name: str, info: FileInfo, start: int, stop: int) -> tuple[int, NDArray[np.uint8]]:
        """Map the file's copy in the cache; if there is none, a copy of these bytes."""
        if (stop - start) < info.bytes and not self._cache.holds(f"{folder}/{name}", info.bytes):
            part = f"{name}.{start}-{stop}"
            copies = self._cache.folder(
                folder,
                {part: stop - start},
                lambda _, path: self._download_part(f"{folder}/{name}", path, start, stop),
            )
            return start, map_file(copies / part, stop - start)
        return 0, map_file(self.folder(folder, {name: info}) / name, info.bytes)

    def forget(self, folder: str, name: str) -> None:
        """Delete the copies in the cache; another thread may be downloading to their folder."""
        self._cache.forget_file(folder, name)

    def checked(self, name: str, files: Files) -> Path:
        """Return the copy after comparing all checksums; damaged files are downloaded again, once."""
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
        """Return a temporary folder on this machine."""
        with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
            yield Path(folder)

    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Upload the files of a folder under its final name, replacing what a dead writer may have left."""
        for path in sorted(folder.iterdir()):
            self._writer.put(f"{name}/{path.name}", path)

    def create(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Write an object only if neither it nor the marker of a retired one exists.

        A failed request may have been carried out, and its retry is then refused. So after a failure or refusal the
        existing content is compared with `content`.
        """
        self.check_commits()
        check()
        for _ in range(_ATTEMPTS):
            try:
                if self._writer.create(name, content):
                    return
            except RaycolError as error:
                if self._was_written(name, content, error):
                    return
                raise
            existing = self._content(name, len(content))
            if existing == content:
                return
            if existing is not None or self._is_retired_now(name):
                break
            # Refused because of another writer's request, which then failed: the name is still free.
        raise FileExistsError(name)

    def retire(self, name: str) -> None:
        """Replace an object with an empty marker, so that `create` still fails for its name.

        Old markers are deleted. A name could be used again only by a writer that pauses between its check and its
        commit while at least `_MARKERS_KEPT` versions are committed and retired.
        """
        self._writer.put(name, b"")
        self._cache.forget(name)
        folder = name.rpartition("/")[0]
        markers = sorted(info.base_name for info in self._list(folder) if self._is_retired(info))
        if len(markers) > 2 * _MARKERS_KEPT:
            self._writer.delete([f"{folder}/{marker}" for marker in markers[:-_MARKERS_KEPT]])

    def _is_retired(self, info: pafs.FileInfo) -> bool:
        manifests = f"{self._prefix}/{MANIFESTS}/"
        return bool(info.type == pafs.FileType.File and info.size == 0 and info.path.startswith(manifests))

    def _is_retired_now(self, name: str) -> bool:
        """Whether the store reports an object as retired; False if it does not respond."""
        if not name.startswith(f"{MANIFESTS}/"):
            return False
        try:
            return self._is_retired(self._fs.get_file_info(self._path(name)))
        except (OSError, pa.ArrowException):
            return False

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        self._writer.put(name, content)

    def put(self, name: str, path: Path) -> None:
        """Upload a local file, replacing an existing object."""
        self._writer.put(name, path)

    def remove(self, name: str) -> None:
        """Delete an object, or all under a prefix, and their copies on this machine."""
        self.remove_all([name])

    def remove_all(self, names: Sequence[str]) -> None:
        """Delete objects and all under prefixes, a thousand in a request, and their copies on this machine."""
        by_parent: dict[str, set[str]] = {}
        for name in names:
            by_parent.setdefault(name.rpartition("/")[0], set()).add(name)
        for _ in range(_ATTEMPTS):
            objects = [name for parent, group in by_parent.items() for name in self._objects(parent, group)]
            try:
                self._writer.delete(objects)
                break
            except FileNotFoundError:  # another process deletes them at the same time
                continue
        for name in names:
            self._cache.forget(name)

    def _objects(self, parent: str, names: set[str]) -> list[str]:
        """Return the names of objects that are among `names` or under them, which all lie under `parent`."""
        prefix = len(self._prefix) + 1
        if parent and len(names) > _LISTED_ALONE:
            depth = parent.count("/") + 2
            listed = [info.path[prefix:] for info in self._list(parent, recursive=True) if _is_object(info)]
            return [name for name in listed if "/".join(name.split("/")[:depth]) in names]
        objects = []
        for name in sorted(names):
            with self._reading(name):
                info = self._fs.get_file_info(self._path(name))
            infos = self._list(name, recursive=True) if info.type == pafs.FileType.Directory else [info]
            objects += [info.path[prefix:] for info in infos if _is_object(info)]
        return objects

    def remove_if_empty(self) -> None:
        """Do nothing: there are no folders."""

    def check_writable(self) -> None:
        """Raise if nothing can be written: no bucket, no permission, no response."""
        self._writer.check()

    def check_commits(self) -> None:
        """Raise if the store ignores conditional writes."""
        self._writer.check(commits=True)

    def why_not_an_index(self) -> str:
        """Describe what the prefix holds."""
        if bucket := missing_bucket(self._opened):
            return f"no bucket {bucket!r}; create it, or fix the name"
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
        """Return an object's content; None if it does not exist."""
        try:
            return self.read(name, limit)
        except FileNotFoundError:
            return None

    def _was_written(self, name: str, content: bytes, error: RaycolError) -> bool:
        """Whether a failed request has written its object anyway."""
        try:
            return self._content(name, len(content)) == content
        except RaycolError:
            raise RaycolError(f"{error}; the object may have been written; check before you retry") from None

    def _download(self, name: str, path: Path, info: FileInfo) -> None:
        with self._object(name, self._fs.open_input_stream, compression=None) as source, path.open("wb") as file:
            while chunk := self._read_chunk(name, source, _CHUNK):
                with writing(path.parent):  # a full disk is not an error of the store
                    file.write(chunk)
        actual = describe_file(path)
        if actual != info:
            raise IndexCorruptError(
                f"{self.location(name)}: {actual.bytes} bytes with checksum {actual.xxh3}; the manifest promises "
                f"{info.bytes} and {info.xxh3}; restore it or rebuild the index"
            )

    def _download_part(self, name: str, path: Path, start: int, stop: int) -> None:
        """Download some bytes of an object; its reader compares their checksums."""
        with self._object(name, self._fs.open_input_file) as source, path.open("wb") as file:
            with self._reading(name):
                source.seek(start)
            for first in range(start, stop, _CHUNK):
                chunk = self._read_chunk(name, source, min(_CHUNK, stop - first))
                with writing(path.parent):
                    file.write(chunk)

    def _object(self, name: str, opening: Callable[..., pa.NativeFile], **options: Any) -> pa.NativeFile:
        try:
            with self._reading(name):
                return opening(self._path(name), **options)
        except FileNotFoundError:
            raise IndexCorruptError(f"{self.location(name)}: missing; restore it or rebuild the index") from None

    def _read_chunk(self, name: str, source: pa.NativeFile, n_bytes: int) -> bytes:
        with self._reading(name):
            chunk: bytes = source.read(n_bytes)
            return chunk

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Convert errors of a read into `RaycolError`, except `FileNotFoundError`, which the caller handles."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise RaycolError(failure_message(self.location(name), "cannot be read", error)) from error


def _is_object(info: pafs.FileInfo) -> bool:
    return bool(info.type == pafs.FileType.File)
