"""Models in object stores: upload, and download to a local cache.

The files by which a model is recognised are uploaded last, so an interrupted upload is not taken for a model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs
import xxhash

from raycol.core.uris import UriFileSystem, failure_message, open_uri, without_options
from raycol.errors import InputError, RaycolError, writing
from raycol.storage.cache import cache_root
from raycol.storage.object_store import RemoteStore

# A model has at least one of these files.
MARKER_FILES = ("modules.json", "config.json")
_MAX_FILES = 1000


def model_exists(uri: str) -> bool:
    """Whether there is a model under a URI.

    Raises:
        InputError: the URI cannot be opened or listed.
    """
    return _is_model(_list(open_uri(uri), uri))


def check_writable(uri: str) -> None:
    """Raise if a model cannot be uploaded there; writes and deletes a test object."""
    RemoteStore(uri).check_writable()


def publish_model(folder: Path, uri: str) -> None:
    """Upload a model's folder to a URI.

    Raises:
        RaycolError: the store cannot be written.
    """
    store = RemoteStore(uri)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: MARKER_FILES.index(name) if name in MARKER_FILES else -1):
        store.put(name, folder / name)


def fetch_model(uri: str) -> Path:
    """Return a local folder with the current model under a URI; downloads it unless it is cached.

    Raises:
        InputError: there is no model under the URI, or it cannot be listed.
        RaycolError: a file cannot be downloaded.
    """
    opened = open_uri(uri)
    files = _list(opened, uri)
    if not _is_model(files):
        raise InputError(
            f"model {without_options(uri)!r}: no config.json or modules.json; pass the URI of a model's folder"
        )
    # Sizes and times are part of the key, so a replaced model is downloaded again.
    key = "\n".join(
        [
            opened.endpoint,
            without_options(uri).rstrip("/"),
            *(f"{name} {info.size} {info.mtime_ns}" for name, info in sorted(files.items())),
        ]
    )
    parent = cache_root() / "models" / xxhash.xxh3_128_hexdigest(key.encode())
    final = parent / PurePosixPath(opened.path).name
    if final.is_dir():
        return final
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
        try:
            _download(opened, uri, files, unfinished)
            # If several processes download the model, the first copy is kept; all are identical.
            if not final.is_dir():
                os.rename(unfinished, final)
        except OSError:
            if not final.is_dir():
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return final


def _download(opened: UriFileSystem, uri: str, files: dict[str, pafs.FileInfo], folder: Path) -> None:
    for name, info in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pafs.copy_files(info.path, str(path), source_filesystem=opened.system)
        except OSError as error:
            raise RaycolError(failure_message(uri, f"model, {name} cannot be read", error)) from error
        if (size := path.stat().st_size) != info.size:
            raise RaycolError(
                f"{without_options(uri)}: {name} has {size} bytes, expected {info.size} as listed; try again"
            )


def _is_model(files: dict[str, pafs.FileInfo]) -> bool:
    return any(name in files for name in MARKER_FILES)


def _list(opened: UriFileSystem, uri: str) -> dict[str, pafs.FileInfo]:
    """List the files under a URI, by relative path."""
    selector = pafs.FileSelector(opened.path, recursive=True, allow_not_found=True)
    try:
        infos = [info for info in opened.system.get_file_info(selector) if info.type == pafs.FileType.File]
    except OSError as error:
        raise InputError(failure_message(uri, "model cannot be listed", error)) from error
    if len(infos) > _MAX_FILES:
        raise InputError(
            f"{without_options(uri)}: has {len(infos):,} files, expected at most {_MAX_FILES:,}; "
            "pass the URI of a model folder"
        )
    files = {info.path.removeprefix(f"{opened.path}/"): info for info in infos}
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(
                f"{without_options(uri)}: file name {name!r:.100} leads out of the folder; rename or remove it"
            )
    return files
