"""A store in an object store, through pyarrow.fs: no rename, no folders, whole objects only.

Objects appear whole when their upload ends. A partition's objects are uploaded under its final name, which nothing
refers to before its manifest is there. The manifest is created by a conditional request (obstore), since pyarrow has
none: of two writers, one gets through. For searching, folders are copied once to a local cache and mapped there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import xxhash

from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.index.storage.files import FileInfo, Files, describe_file, digest, open_checked
from raycol.index.storage.store import Store

_CHUNK = 4 << 20


class RemoteStore(Store):
    """A prefix of an object store.

    Credentials come from the environment or the machine's role, as pyarrow.fs takes them.
    """

    is_local = False

    def __init__(self, uri: str) -> None:
        super().__init__()
        parts = urlsplit(uri)
        if parts.username or parts.password:
            raise InputError(f"{parts.scheme}://{parts.hostname}: credentials in a URI; put them into the environment")
        try:
            self._fs, prefix = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{uri}: cannot be opened ({_first_line(error)})") from None
        if not prefix.strip("/"):
            raise InputError(f"{uri}: cannot be opened (it names no bucket)")
        self.uri = uri.partition("?")[0]
        self._full_uri = uri
        self._prefix = prefix.rstrip("/")
        cache = os.environ.get("RAYCOL_CACHE") or Path.home() / ".cache" / "raycol"
        self._cache = Path(cache) / "indexes" / xxhash.xxh3_64_hexdigest(uri.encode())

    def names(self, folder: str) -> list[str]:
        """Names directly under a folder."""
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True)
        with self._reading():
            return sorted(info.base_name for info in self._fs.get_file_info(selector))

    def walk(self) -> Iterator[str]:
        """The names of all objects."""
        selector = pafs.FileSelector(self._prefix, allow_not_found=True, recursive=True)
        with self._reading():
            infos = self._fs.get_file_info(selector)
        for info in sorted(infos, key=lambda info: info.path):
            if info.type == pafs.FileType.File:
                yield info.path[len(self._prefix) + 1 :]

    def read(self, name: str, limit: int) -> bytes:
        """An object's contents."""
        with self._fs.open_input_stream(self._path(name), compression=None) as stream:
            content: bytes = stream.read(limit + 1)
            return content

    def describe(self, name: str) -> FileInfo | None:
        """Length and checksum of an object, downloaded whole."""
        info = self._fs.get_file_info(self._path(name))
        if info.type != pafs.FileType.File:
            return None
        with self._reading(), self._fs.open_input_stream(self._path(name), compression=None) as stream:
            return FileInfo(bytes=info.size, xxh3=digest(stream))

    def check_lengths(self, folder: str, files: Files) -> None:
        """Compare with a listing."""
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True)
        with self._reading():
            found = {info.base_name: info.size for info in self._fs.get_file_info(selector)}
        for name, info in files.items():
            if name not in found:
                raise IndexCorruptError(f"{self.place(f'{folder}/{name}')}: missing; restore it or rebuild the index")
            if found[name] != info.bytes:
                raise IndexCorruptError(
                    f"{self.place(f'{folder}/{name}')}: {found[name]} bytes; the manifest promises {info.bytes}"
                )

    def folder(self, name: str, files: Files) -> Path:
        """The folder's copy in the cache, with these files; downloaded and checked where they are not there whole."""
        final = self._cache / name
        for file_name, info in files.items():
            if not _is_whole(final / file_name, info):
                with writing(self._cache):
                    final.mkdir(parents=True, exist_ok=True)
                copy = final / f"copy-{uuid.uuid4().hex}"
                try:
                    self._download(f"{name}/{file_name}", copy, info)
                    with writing(self._cache):
                        os.replace(copy, final / file_name)
                finally:
                    copy.unlink(missing_ok=True)
        return final

    @contextmanager
    def workspace(self, base: int) -> Iterator[Path]:
        """A temporary folder on this machine."""
        with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
            yield Path(folder)

    def publish(self, folder: Path, name: str, files: Files) -> None:
        """Upload every file of a folder under its final name, over what a writer left that died."""
        with writing(self.uri):
            if not self.names(name):
                self._published.append(name)
            for path in sorted(folder.iterdir()):
                target = self._path(f"{name}/{path.name}")
                with path.open("rb") as file, self._fs.open_output_stream(target, compression=None) as stream:
                    shutil.copyfileobj(file, stream, _CHUNK)

    def create(self, name: str, content: bytes) -> None:
        """Put an object on the condition that there is none of that name."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        self._published.clear()  # a request that fails may have been carried out: nothing is removed after it
        try:
            obstore.put(self._conditional(), self._path(name).partition("/")[2], content, mode="create")
        except AlreadyExistsError:
            raise FileExistsError(name) from None
        except obstore.exceptions.BaseError as error:
            raise OSError(_first_line(error)) from None

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place of what stood there."""
        with self._fs.open_output_stream(self._path(name), compression=None) as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """Remove an object, or all under a prefix."""
        info = self._fs.get_file_info(self._path(name))
        if info.type == pafs.FileType.File:
            self._fs.delete_file(self._path(name))
        elif info.type == pafs.FileType.Directory:
            self._fs.delete_dir(self._path(name))

    def remove_if_empty(self) -> None:
        """There are no folders to leave behind."""

    def check_room(self) -> None:
        """Raise `InputError` where raycol cannot write."""
        self._conditional()

    def why_not_an_index(self) -> str:
        """What stands here."""
        if self.names("partitions"):
            return "an unfinished build; run the same build again to finish it (no manifests/ here)"
        return "not an index (no manifests/ here)"

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if name else self._prefix

    def _conditional(self) -> Any:
        """An obstore client for the same bucket: the one request that pyarrow.fs cannot make."""
        from obstore.store import AzureStore, GCSStore, S3Store

        bucket = self._prefix.partition("/")[0]
        options = {key: values[-1] for key, values in parse_qs(urlsplit(self._full_uri).query).items()}
        if self._fs.type_name == "s3":
            endpoint = options.get("endpoint_override")
            scheme = options.get("scheme", "https")
            if endpoint:
                return S3Store(
                    bucket,
                    endpoint=f"{scheme}://{endpoint}",
                    region=self._fs.region,
                    virtual_hosted_style_request=False,
                    client_options={"allow_http": scheme == "http"},
                )
            return S3Store(bucket, region=self._fs.region)
        if self._fs.type_name == "gcs":
            return GCSStore(bucket)
        if self._fs.type_name == "abfs":
            return AzureStore(bucket)
        raise InputError(
            f"{self.uri}: {self._fs.type_name} cannot create a file on condition that there is none; an index there "
            "can be read, not written. Write to a local folder, s3://, gs:// or abfs://"
        )

    def _download(self, name: str, path: Path, info: FileInfo) -> None:
        try:
            source = self._fs.open_input_stream(self._path(name), compression=None)
        except FileNotFoundError:
            raise IndexCorruptError(f"{self.place(name)}: missing; restore it or rebuild the index") from None
        with self._reading(), source, writing(self._cache), path.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        found = describe_file(path)
        if found != info:
            raise IndexCorruptError(
                f"{self.place(name)}: {found.bytes} bytes with checksum {found.xxh3}; the manifest promises "
                f"{info.bytes} and {info.xxh3}"
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise RaycolError(f"{self.uri}: cannot be read ({_first_line(error)})") from error


def _is_whole(path: Path, info: FileInfo) -> bool:
    try:
        os.close(open_checked(path, info))
    except IndexCorruptError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
