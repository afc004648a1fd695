"""Stores of checksummed files, in a local folder or an object store."""

from pathlib import Path

from raycol.core.uris import is_uri, open_uri
from raycol.errors import InputError
from raycol.storage.checked_files import (
    FileInfo,
    Files,
    Name,
    content_name,
    open_array,
    open_checked,
    save_array,
    save_bytes,
)
from raycol.storage.local import LocalStore
from raycol.storage.store import MANIFESTS, Store, StoredFolder, absolute, save_folder

__all__ = [
    "MANIFESTS",
    "FileInfo",
    "Files",
    "Name",
    "Store",
    "StoredFolder",
    "absolute",
    "content_name",
    "open_array",
    "open_checked",
    "open_store",
    "save_array",
    "save_bytes",
    "save_folder",
]


def open_store(uri: str | Path) -> Store:
    """Return the store at a local path, or at a URI that pyarrow.fs opens (`s3://`, `gs://`, `abfs://`, ...).

    Raises:
        InputError: an empty path, or a URI that cannot be opened or holds credentials.
    """
    text = str(uri)
    if not text:
        raise InputError("an empty path; expected the folder or URI of an index")
    if isinstance(uri, Path) or not is_uri(text):
        return LocalStore(Path(uri))
    if text.startswith("file://"):
        return LocalStore(Path(open_uri(text).path))
    from raycol.storage.object_store import RemoteStore

    return RemoteStore(text)
