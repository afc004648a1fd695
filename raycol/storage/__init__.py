"""Stores of checksummed files, in a local folder or an object store."""

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
from raycol.storage.opening import open_store
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
