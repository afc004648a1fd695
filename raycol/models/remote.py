"""Models in an object store: a model's folder under a URI, and copies of such on this machine, to be opened.

The files that make it a model are put last, so what an upload that broke leaves behind is not taken for one.
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

# A model has one of these at least.
MARKS = ("modules.json", "config.json")
_MOST_FILES = 1000


def holds_model(uri: str) -> bool:
    """Whether there is a model under a URI.

    Raises:
        InputError: the URI cannot be opened, or what is under it listed.
    """
    return _is_model(_list(open_uri(uri), uri))


def check_writable(uri: str) -> None:
    """Raise what stands in the way of putting a model there, by an object that is written and removed."""
    RemoteStore(uri).check_writable()


def publish_model(folder: Path, uri: str) -> None:
    """Put a model's folder under a URI.

    Raises:
        RaycolError: it cannot be written.
    """
    store = RemoteStore(uri)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: MARKS.index(name) if name in MARKS else -1):
        store.put(name, folder / name)


def fetch_model(uri: str) -> Path:
    """A folder of this machine with the model that is under a URI now, downloaded where there is none yet.

    Raises:
        InputError: there is no model, or it cannot be read.
    """
    opened = open_uri(uri)
    files = _list(opened, uri)
    if not _is_model(files):
        raise InputError(f"model {without_options(uri)!r}: there is no config.json or modules.json under it")
    # By time and size another model of the same name has another folder.
    key = "\n".join(
        [
            opened.endpoint,
            without_options(uri).rstrip("/"),
            *(f"{name} {info.size} {info.mtime_ns}" for name, info in sorted(files.items())),
        ]
    )
    place = cache_root() / "models" / xxhash.xxh3_128_hexdigest(key.encode())
    final = place / PurePosixPath(opened.path).name
    if final.is_dir():
        return final
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=place))
        try:
            _download(opened, uri, files, unfinished)
            # Of several processes the first one's copy is kept; they are the same.
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
        if (found := path.stat().st_size) != info.size:
            raise RaycolError(f"{without_options(uri)}: {name} has {found} bytes; {info.size} were listed; try again")


def _is_model(files: dict[str, pafs.FileInfo]) -> bool:
    return any(name in files for name in MARKS)


def _list(opened: UriFileSystem, uri: str) -> dict[str, pafs.FileInfo]:
    """The files under a URI, by their names below it."""
    selector = pafs.FileSelector(opened.path, recursive=True, allow_not_found=True)
    try:
        found = [info for info in opened.system.get_file_info(selector) if info.type == pafs.FileType.File]
    except OSError as error:
        raise InputError(failure_message(uri, "model cannot be listed", error)) from error
    if len(found) > _MOST_FILES:
        raise InputError(
            f"{without_options(uri)}: has {len(found):,} files under it; a model has {_MOST_FILES:,} at most"
        )
    files = {info.path.removeprefix(f"{opened.path}/"): info for info in found}
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{without_options(uri)}: has a file {name!r:.100}, which is no name of a model's")
    return files
