"""List and open the files of a corpus, given as a path, folder, glob, URI or Hugging Face dataset."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.arrow import ArrowFSWrapper

from raycol.core.uris import failure_message, is_uri, missing_bucket, open_uri, without_options
from raycol.errors import InputError

Format = Literal["jsonl", "csv", "tsv", "parquet", "npz", "dataset"]

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".npz": "npz",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
_LINES = ("jsonl", "csv", "tsv")
EXPECTED = ".jsonl, .csv or .tsv (also .gz, .zst, .bz2, .xz), .parquet or .npz"

# Limit on one decompressed record in a file of lines, in bytes: a line that never ends would fill the memory.
MAX_RECORD_BYTES = 1 << 26
TOO_LARGE = f"the record exceeds the limit of {MAX_RECORD_BYTES >> 20} MiB"
# `zstd --long=31` writes windows of 2 GiB; decompression needs memory for the window that the file was written with.
_LARGEST_ZSTD_WINDOW_LOG = 31

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

HUB = "hf:"
# Files that `save_to_disk` writes for a `Dataset`, and for a `DatasetDict`.
_SAVED_DATASET = (("state.json", "dataset_info.json"), ("dataset_dict.json",))


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file, by absolute path or URI, and its format.

    A Hugging Face dataset is one `CorpusFile`: its `uri` is `hf:NAME` or the folder of a saved dataset. Only datasets
    have a `subset` and a `split`.
    """

    uri: str
    format: Format
    subset: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return self.uri

    @property
    def is_table(self) -> bool:
        """Whether the file has rows of typed columns rather than lines of text."""
        return self.format in ("parquet", "npz", "dataset")

    @property
    def unit(self) -> str:
        """Name of a record in messages: row, line, or record in .json files, whose arrays span lines freely."""
        if self.is_table:
            return "row"
        return "record" if ".json" in PurePosixPath(self.uri.lower()).suffixes[-2:] else "line"

    def where(self, number: int) -> str:
        """Location of a record, for messages: the file and its row or line."""
        return f"{self}, {self.unit} {number}"


def corpus_files(corpus: str, subset: str | None = None, split: str | None = None) -> list[CorpusFile]:
    """List the files of a corpus in reading order, which is always the same.

    Args:
        corpus: a file; a BEIR folder; any other folder, of which all files are read recursively, sorted by path; a
            glob; a URI of any of these (s3://, gs://, ...); a folder written by `Dataset.save_to_disk`; or hf:NAME, a
            dataset on the Hugging Face hub.
        subset: configuration of a hub dataset.
        split: split of a dataset.

    Raises:
        InputError: no such path, or no file in a known format.
    """
    if corpus.startswith(HUB):
        if len(corpus) == len(HUB):
            raise InputError(f"{corpus}: names no dataset; expected hf:NAME, for instance hf:BeIR/scifact")
        return [CorpusFile(corpus, "dataset", subset, split)]
    system, path, uri_of = _locate(corpus)
    try:
        info = system.get_file_info(path)
        if info.type == pafs.FileType.Directory:
            if isinstance(system, pafs.LocalFileSystem) and _is_saved_dataset(Path(path)):
                return [CorpusFile(path, "dataset", subset, split)]
            paths = _in_folder(system, path)
        elif info.type == pafs.FileType.NotFound and any(sign in path for sign in "*?["):
            paths = _in_glob(system, path)
        elif info.type == pafs.FileType.NotFound:
            bucket = missing_bucket(open_uri(corpus)) if is_uri(corpus) else ""
            where = f", and no bucket {bucket!r}" if bucket else ""
            raise InputError(
                f"{corpus}: no such file or folder{where}; expected a corpus or training examples ({EXPECTED}), "
                "or a BEIR folder"
            )
        else:
            paths = [path]
            if not _format_of(path):
                raise InputError(f"{corpus}: unknown format; expected {EXPECTED}")
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(corpus, "cannot be read", error)) from None
    if not paths:
        raise InputError(f"{corpus}: no corpus files; expected a BEIR folder, or files in {EXPECTED}")
    if subset or split:
        raise InputError(f"{corpus}: only Hugging Face datasets have subsets and splits; leave them out")
    return [CorpusFile(uri_of(file), cast(Format, _format_of(file))) for file in paths]


def folder_entries(location: str) -> dict[str, list[str]] | None:
    """Paths or URIs of the subfolders and known files of a folder, by name without suffixes; None if not a folder.

    Shards as the hub names them (train-00000-of-00002.parquet) share one name.

    Raises:
        InputError: the folder cannot be read.
    """
    with reading(location):
        system, path, uri_of = _locate(location)
        if system.get_file_info(path).type != pafs.FileType.Directory:
            return None
        entries: dict[str, list[str]] = {}
        for info in sorted(system.get_file_info(pafs.FileSelector(path)), key=lambda info: str(info.path)):
            name = PurePosixPath(info.path).name
            if not name.startswith((".", "_")) and (info.type == pafs.FileType.Directory or _format_of(name)):
                entries.setdefault(_SHARD.sub("", name.partition(".")[0]), []).append(uri_of(info.path))
        return entries


def path_kind(location: str | Path) -> Literal["file", "folder", "nothing"]:
    """Whether a path or URI is a file, a folder or absent. Raises `InputError` if it cannot be accessed."""
    with reading(location):
        system, path, _ = _locate(str(location))
        kind = system.get_file_info(path).type
    return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(kind, "nothing")  # type: ignore[return-value]


def list_folder(location: str) -> list[str]:
    """Sorted names of the entries of a folder; empty if there is no such folder."""
    with reading(location):
        system, path, _ = _locate(location)
        return sorted(info.base_name for info in system.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


def parent_folder(location: str) -> str:
    """Path or URI of the parent folder."""
    _, path, uri_of = _locate(location)
    return uri_of(str(PurePosixPath(path).parent))


def _locate(corpus: str) -> tuple[pafs.FileSystem, str, Callable[[str], str]]:
    """The file system, the path in it, and a function from such paths to paths or URIs that can be opened."""
    if not is_uri(corpus):
        return pafs.LocalFileSystem(), os.path.abspath(corpus), str
    opened = open_uri(corpus)
    return opened.system, opened.path, opened.uri_of


def _is_saved_dataset(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _SAVED_DATASET)


def _in_glob(system: pafs.FileSystem, pattern: str) -> list[str]:
    """Files of a known format that match, and those in matching folders with a format suffix.

    Hidden files match only an explicit dot, as in a shell. Files of an index are skipped, as in folders.
    """
    matches = ArrowFSWrapper(system).glob(pattern, detail=True)
    files: set[str] = set()
    glob = PurePosixPath(pattern)
    for path, info in matches.items():
        hidden = any(part.startswith(".") and part not in glob.parts for part in PurePosixPath(path).parts)
        if not _format_of(path) or _is_index_metadata(PurePosixPath(path)):
            continue
        if not hidden or glob.name.startswith("."):
            files.update(_in_folder(system, path) if info["type"] == "directory" else [path])
    return sorted(files)


def _in_folder(system: pafs.FileSystem, folder: str) -> list[str]:
    """BEIR's corpus file if there is one; otherwise all files of a known format, except hidden ones and an index's."""
    infos = system.get_file_info(pafs.FileSelector(folder, recursive=True))
    paths = sorted(info.path for info in infos if info.type == pafs.FileType.File and _format_of(info.path))
    # In a folder, a .json file usually describes the corpus; only one that is named explicitly is read as JSON Lines.
    files = [path for path in paths if not path.lower().endswith(".json")]
    relative = {file: PurePosixPath(file).relative_to(folder) for file in files}
    beir = [file for file in files if len(relative[file].parts) == 1 and relative[file].name.startswith("corpus.")]
    if len(beir) > 1:
        names = " and ".join(PurePosixPath(file).name for file in beir)
        raise InputError(f"{folder}: holds {names}; name one of them")
    hidden = {file for file in files if any(part.startswith((".", "_")) for part in relative[file].parts)}
    return beir or [file for file in files if file not in hidden and not _is_index_metadata(relative[file])]


def _is_index_metadata(path: PurePosixPath) -> bool:
    """Whether a file is the metadata of an index partition, committed or not: an index may be built in the corpus."""
    committed, unfinished = path.parts[-3:-2] == ("partitions",), path.parts[-4:-3] == ("unfinished",)
    return path.name == "documents.parquet" and (committed or unfinished)


def _format_of(path: str) -> Format | None:
    suffixes = PurePosixPath(path.lower()).suffixes
    compressed = bool(suffixes) and suffixes[-1] in _COMPRESSIONS
    plain = suffixes[:-1] if compressed else suffixes
    kind = _FORMATS.get(plain[-1]) if plain else None
    return None if compressed and kind not in _LINES else kind


def compression_of(path: str) -> str | None:
    """Compression of a file of lines, from its suffix; None if uncompressed."""
    return _COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)


@contextmanager
def open_file(uri: str) -> Iterator[pa.NativeFile]:
    """Open a file for random access.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with reading(uri):
        system, path, _ = _locate(uri)
        with system.open_input_file(path) as file:
            yield file


@contextmanager
def open_lines(uri: str, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file of lines at an offset in bytes of its content, decompressed if its suffix says so.

    Raises:
        InputError: the file is missing, cannot be read, or is damaged.
    """
    with reading(uri):
        system, path, _ = _locate(uri)
        compression = compression_of(path)
        raw = system.open_input_file(path)
        if compression:
            raw = decompressed(raw, compression, 1 << 20)
        else:
            raw.seek(offset)
        with io.BufferedReader(raw, 1 << 20) as file:
            remaining = offset if compression else 0
            while remaining and (skipped := len(file.read(min(remaining, 1 << 20)))):
                remaining -= skipped
            yield cast(BinaryIO, file)


def decompressed(raw: pa.NativeFile, compression: str, buffer_size: int) -> Any:
    """Decompressing stream over an open file; closing it closes the file. Damaged content raises `OSError`."""
    if compression == "gzip":
        return pa.CompressedInputStream(raw, compression)
    return _Decompressed(io.BufferedReader(cast(Any, raw), buffer_size), compression)


class _Decompressed(io.RawIOBase):
    """Decompressing stream over a file of one or several members; an empty file has no content."""

    def __init__(self, raw: IO[bytes], compression: str) -> None:
        self._raw = raw
        self._damage: tuple[type[Exception], ...] = (EOFError, lzma.LZMAError)
        self._file: Any
        if compression == "bz2":
            self._file = bz2.BZ2File(raw)
        elif compression == "xz":
            self._file = lzma.LZMAFile(raw)  # noqa: SIM115
        else:  # Arrow refuses windows above 128 MiB
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
            options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _LARGEST_ZSTD_WINDOW_LOG}
            self._file = zstd.ZstdFile(raw, options=options)
            self._damage += (zstd.ZstdError,)

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`. Raises `OSError` if the file is damaged."""
        try:
            return int(self._file.readinto(buffer))
        except self._damage as error:
            if not self._raw.tell():
                return 0
            raise OSError(str(error)) from None

    def close(self) -> None:
        """See `io.RawIOBase`."""
        if not self.closed:
            self._file.close()
            self._raw.close()
        super().close()


def lines_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line with its size in bytes; a line above `MAX_RECORD_BYTES` is cut one byte after the limit."""
    while line := file.readline(MAX_RECORD_BYTES + 1):
        n_bytes = len(line)
        more = line
        while n_bytes > MAX_RECORD_BYTES and more and not more.endswith(b"\n"):
            more = file.readline(1 << 20)
            n_bytes += len(more)
        yield line, n_bytes


def size_of(uri: str) -> int:
    """Size of a file in bytes."""
    with reading(uri):
        system, path, _ = _locate(uri)
        return int(system.get_file_info(path).size)


def file_state(uri: str) -> str:
    """Size and modification time of a file; comparing them detects a change."""
    with reading(uri):
        system, path, _ = _locate(uri)
        info = system.get_file_info(path)
        return f"{info.size} {info.mtime_ns}"


def folder_state(folder: str, pattern: str) -> str:
    """State of all files below a folder that match a pattern; see `file_state`."""
    with reading(folder):
        if is_uri(folder):
            system, path, _ = _locate(folder)
            infos = sorted(system.get_file_info(pafs.FileSelector(path, recursive=True)), key=lambda info: info.path)
            return " ".join(f"{info.size} {info.mtime_ns}" for info in infos if fnmatch(info.base_name, pattern))
        states = [path.stat() for path in sorted(Path(folder).rglob(pattern))]
    return " ".join(f"{state.st_ino} {state.st_size} {state.st_mtime_ns}" for state in states)


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn errors of the file system and of Arrow into an `InputError` that names what is read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{without_options(str(name))}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(name, "cannot be read", error)) from None
