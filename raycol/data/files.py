"""The files of a corpus: found from a path, a folder, a glob or a URI, always in the same order; and opening them."""

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

# Bytes of one record in a file of lines, decompressed. A line without an end would take all memory.
MAX_RECORD_BYTES = 1 << 26
TOO_LARGE = f"a record of more than {MAX_RECORD_BYTES >> 20} MiB, which is the limit"
# `zstd --long=31` writes windows of 2 GiB; a reader takes as much memory as the window that a file was written with.
_LARGEST_ZSTD_WINDOW_LOG = 31

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

HUB = "hf:"
# What `save_to_disk` leaves in a folder, of a dataset and of one with splits.
_SAVED_DATASET = (("state.json", "dataset_info.json"), ("dataset_dict.json",))


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file, by absolute path or URI, and how to read it.

    A Hugging Face dataset counts as one: its `uri` is `hf:` and a name, or a folder; `subset` and `split` are its own.
    """

    uri: str
    format: Format
    subset: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return self.uri

    @property
    def is_table(self) -> bool:
        """Whether it has rows of typed columns, not lines of text."""
        return self.format in ("parquet", "npz", "dataset")

    @property
    def unit(self) -> str:
        """What a record of it is called; those of an array in JSON are not lines."""
        if self.is_table:
            return "row"
        return "record" if ".json" in PurePosixPath(self.uri.lower()).suffixes[-2:] else "line"

    def where(self, number: int) -> str:
        """Where a record stands, by its row or line."""
        return f"{self}, {self.unit} {number}"


def corpus_files(corpus: str, subset: str | None = None, split: str | None = None) -> list[CorpusFile]:
    """The files of a corpus, in the order in which they are read.

    Args:
        corpus: a file; a BEIR folder; any other folder, whose files are taken by name, those in folders below too;
            a glob; a URI of any of these (s3://, gs://, ...); a folder that `Dataset.save_to_disk` wrote; or hf:NAME,
            a dataset of the Hugging Face hub.
        subset: which configuration of a hub dataset.
        split: which split of a dataset.

    Raises:
        InputError: nothing there, or nothing that is a corpus.
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
            found = _in_folder(system, path)
        elif info.type == pafs.FileType.NotFound and any(sign in path for sign in "*?["):
            found = _in_glob(system, path)
        elif info.type == pafs.FileType.NotFound:
            bucket = missing_bucket(open_uri(corpus)) if is_uri(corpus) else ""
            where = f", and no bucket {bucket!r}" if bucket else ""
            raise InputError(
                f"{corpus}: no such file or folder{where}; expected a corpus ({EXPECTED}) or a BEIR folder"
            )
        else:
            found = [path]
            if not _format_of(path):
                raise InputError(f"{corpus}: no format that is known; expected {EXPECTED}")
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(corpus, "cannot be read", error)) from None
    if not found:
        raise InputError(f"{corpus}: no corpus here; expected a BEIR folder, or files in {EXPECTED}")
    if subset or split:
        raise InputError(f"{corpus}: a subset or split is of Hugging Face datasets only")
    return [CorpusFile(uri_of(file), cast(Format, _format_of(file))) for file in found]


def parts_of(location: str) -> dict[str, list[str]] | None:
    """What lies in a folder, by name without suffixes: folders, files of a known format; None where it is no folder.

    Shards as the hub names them (train-00000-of-00002.parquet) count as one name.

    Raises:
        InputError: it cannot be read.
    """
    with reading(location):
        system, path, uri_of = _locate(location)
        if system.get_file_info(path).type != pafs.FileType.Directory:
            return None
        found: dict[str, list[str]] = {}
        for info in sorted(system.get_file_info(pafs.FileSelector(path)), key=lambda info: str(info.path)):
            name = PurePosixPath(info.path).name
            if not name.startswith((".", "_")) and (info.type == pafs.FileType.Directory or _format_of(name)):
                found.setdefault(_SHARD.sub("", name.partition(".")[0]), []).append(uri_of(info.path))
        return found


def what_is(location: str | Path) -> Literal["file", "folder", "nothing"]:
    """What stands at a path or URI. Raises `InputError` where that cannot be found out."""
    with reading(location):
        system, path, _ = _locate(str(location))
        kind = system.get_file_info(path).type
    return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(kind, "nothing")  # type: ignore[return-value]


def names_in(location: str) -> list[str]:
    """Names of what lies in a folder; none where there is no such folder."""
    with reading(location):
        system, path, _ = _locate(location)
        return sorted(info.base_name for info in system.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


def folder_of(location: str) -> str:
    """The folder that a file or folder lies in."""
    _, path, uri_of = _locate(location)
    return uri_of(str(PurePosixPath(path).parent))


def _locate(corpus: str) -> tuple[pafs.FileSystem, str, Callable[[str], str]]:
    """The file system, the path in it, and what turns such a path into a path or URI that can be opened."""
    if not is_uri(corpus):
        return pafs.LocalFileSystem(), os.path.abspath(corpus), str
    opened = open_uri(corpus)
    return opened.system, opened.path, opened.uri_of


def _is_saved_dataset(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _SAVED_DATASET)


def _in_glob(system: pafs.FileSystem, pattern: str) -> list[str]:
    """Files of a known format, also in folders that match by such a name; hidden ones only if they are asked for.

    Those of an index are left out, as in folders.
    """
    found = ArrowFSWrapper(system).glob(pattern, detail=True)
    files: set[str] = set()
    asked = PurePosixPath(pattern)
    for path, info in found.items():
        # As a shell does it.
        hidden = any(part.startswith(".") and part not in asked.parts for part in PurePosixPath(path).parts)
        if not _format_of(path) or _is_of_an_index(PurePosixPath(path)):
            continue
        if not hidden or asked.name.startswith("."):
            files.update(_in_folder(system, path) if info["type"] == "directory" else [path])
    return sorted(files)


def _in_folder(system: pafs.FileSystem, folder: str) -> list[str]:
    """BEIR's corpus file where there is one; else all files of a known format, except hidden ones and an index's."""
    infos = system.get_file_info(pafs.FileSelector(folder, recursive=True))
    paths = sorted(info.path for info in infos if info.type == pafs.FileType.File and _format_of(info.path))
    # A .json beside a corpus describes it, more often than not; by its own name it is taken for JSON Lines.
    files = [path for path in paths if not path.lower().endswith(".json")]
    relative = {file: PurePosixPath(file).relative_to(folder) for file in files}
    beir = [file for file in files if len(relative[file].parts) == 1 and relative[file].name.startswith("corpus.")]
    if len(beir) > 1:
        names = " and ".join(PurePosixPath(file).name for file in beir)
        raise InputError(f"{folder}: holds {names}; name one of them")
    hidden = {file for file in files if any(part.startswith((".", "_")) for part in relative[file].parts)}
    return beir or [file for file in files if file not in hidden and not _is_of_an_index(relative[file])]


def _is_of_an_index(path: PurePosixPath) -> bool:
    """Whether a file is the metadata of an index's partition, finished or not: one may be built beside its corpus."""
    in_place, unfinished = path.parts[-3:-2] == ("partitions",), path.parts[-4:-3] == ("unfinished",)
    return path.name == "documents.parquet" and (in_place or unfinished)


def _format_of(path: str) -> Format | None:
    suffixes = PurePosixPath(path.lower()).suffixes
    compressed = bool(suffixes) and suffixes[-1] in _COMPRESSIONS
    plain = suffixes[:-1] if compressed else suffixes
    kind = _FORMATS.get(plain[-1]) if plain else None
    return None if compressed and kind not in _LINES else kind


def compression_of(path: str) -> str | None:
    """How a file of lines is compressed, by its name."""
    return _COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)


@contextmanager
def open_file(uri: str) -> Iterator[pa.NativeFile]:
    """Open a file for reading anywhere in it.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    with reading(uri):
        system, path, _ = _locate(uri)
        with system.open_input_file(path) as file:
            yield file


@contextmanager
def open_lines(uri: str, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file of lines, decompressed where its name says so, at a byte of its (decompressed) content.

    Raises:
        InputError: it is not there, cannot be read, or is damaged.
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
            left = offset if compression else 0
            while left and (skipped := len(file.read(min(left, 1 << 20)))):
                left -= skipped
            yield cast(BinaryIO, file)


def decompressed(raw: pa.NativeFile, compression: str, buffer_size: int) -> Any:
    """The content of an open file, which is closed with it. Reading a damaged one raises `OSError`."""
    if compression == "gzip":
        return pa.CompressedInputStream(raw, compression)
    return _Decompressed(io.BufferedReader(cast(Any, raw), buffer_size), compression)


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, of one member or several; a file without a byte has none."""

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
        """As `io.RawIOBase` has it."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` has it. Raises `OSError` where the file is damaged."""
        try:
            return int(self._file.readinto(buffer))
        except self._damage as error:
            if not self._raw.tell():
                return 0
            raise OSError(str(error)) from None

    def close(self) -> None:
        """As `io.RawIOBase` has it."""
        if not self.closed:
            self._file.close()
            self._raw.close()
        super().close()


def lines_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line and how many bytes it takes; of one above `MAX_RECORD_BYTES` only so many bytes and one more."""
    while line := file.readline(MAX_RECORD_BYTES + 1):
        n_bytes = len(line)
        more = line
        while n_bytes > MAX_RECORD_BYTES and more and not more.endswith(b"\n"):
            more = file.readline(1 << 20)
            n_bytes += len(more)
        yield line, n_bytes


def size_of(uri: str) -> int:
    """Bytes of a file."""
    with reading(uri):
        system, path, _ = _locate(uri)
        return int(system.get_file_info(path).size)


def state_of(uri: str) -> str:
    """A file's length and time of change, to tell whether it is another one now."""
    with reading(uri):
        system, path, _ = _locate(uri)
        info = system.get_file_info(path)
        return f"{info.size} {info.mtime_ns}"


def folder_state(folder: str, pattern: str) -> str:
    """The same of all files in a folder and below it that match a pattern."""
    with reading(folder):
        if is_uri(folder):
            system, path, _ = _locate(folder)
            infos = sorted(system.get_file_info(pafs.FileSelector(path, recursive=True)), key=lambda info: info.path)
            return " ".join(f"{info.size} {info.mtime_ns}" for info in infos if fnmatch(info.base_name, pattern))
        states = [path.stat() for path in sorted(Path(folder).rglob(pattern))]
    return " ".join(f"{state.st_ino} {state.st_size} {state.st_mtime_ns}" for state in states)


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn what the system or Arrow says of a failed read into an `InputError`."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{without_options(str(name))}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(name, "cannot be read", error)) from None
