"""Where an index's bytes live: files with checksums, in a local folder or an object store."""

from raycol.index.storage.files import (
    FileInfo,
    Files,
    Name,
    content_name,
    open_array,
    open_checked,
    save_array,
    save_bytes,
)
from raycol.index.storage.store import MANIFESTS, Store, absolute, open_store

__all__ = [
    "MANIFESTS",
    "FileInfo",
    "Files",
    "Name",
    "Store",
    "absolute",
    "content_name",
    "open_array",
    "open_checked",
    "open_store",
    "save_array",
    "save_bytes",
]
