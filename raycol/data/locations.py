"""List the files of a corpus, given as a path, folder, glob, URI or Hugging Face dataset."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.arrow import ArrowFSWrapper

from raycol.core.uris import failure_message, is_uri, missing_bucket, open_uri
from raycol.data.files import COMPRESSIONS, HUB, IR_DATASETS, locate, reading
from raycol.data.readers.reader import READERS, CorpusFile
from raycol.errors import InputError

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# Files that `save_to_disk` writes for a `Dataset`, and for a `DatasetDict`.
_SAVED_DATASET = (("state.json", "dataset_info.json"), ("dataset_dict.json",))


def corpus_files(corpus: str, subset: str | None = None, split: str | None = None) -> list[CorpusFile]:
    """List the files of a corpus in reading order, which is always the same.

    Args:
        corpus: a file; a BEIR folder; any other folder, of which all files are read recursively, sorted by path; a
            glob; a URI of any of these (s3://, gs://, ...); a folder written by `Dataset.save_to_disk`; or hf:NAME, a
            dataset on the Hugging Face hub; or ir:NAME, a dataset of ir_datasets.
        subset: configuration of a hub dataset.
        split: split of a dataset.

    Raises:
        InputError: no such path, or no file in a known format.
    """
    if corpus.startswith(HUB):
        if len(corpus) == len(HUB):
            raise InputError(f"{corpus}: names no dataset; expected hf:NAME, for instance hf:BeIR/scifact")
        return [CorpusFile(corpus, "dataset", subset, split)]
    if corpus.startswith(IR_DATASETS):
        if subset or split:
            raise InputError(f"{corpus}: a dataset of ir_datasets has no subsets and splits; leave them out")
        return [CorpusFile(corpus, "ir")]
    system, path, uri_of = locate(corpus)
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
                f"{corpus}: no such file or folder{where}; expected a corpus or training examples "
                f"({_expected_formats()}), or a BEIR folder"
            )
        else:
            paths = [path]
            if not _format_of(path):
                raise InputError(f"{corpus}: unknown format; expected {_expected_formats()}")
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputError(failure_message(corpus, "cannot be read", error)) from None
    if not paths:
        raise InputError(f"{corpus}: no corpus files; expected a BEIR folder, or files in {_expected_formats()}")
    if subset or split:
        raise InputError(f"{corpus}: only Hugging Face datasets have subsets and splits; leave them out")
    return [CorpusFile(uri_of(file), str(_format_of(file))) for file in paths]


def folder_entries(location: str) -> dict[str, list[str]] | None:
    """Paths or URIs of the subfolders and known files of a folder, by name without suffixes; None if not a folder.

    Shards as the hub names them (train-00000-of-00002.parquet) share one name.

    Raises:
        InputError: the folder cannot be read.
    """
    with reading(location):
        system, path, uri_of = locate(location)
        if system.get_file_info(path).type != pafs.FileType.Directory:
            return None
        entries: dict[str, list[str]] = {}
        for info in sorted(system.get_file_info(pafs.FileSelector(path)), key=lambda info: str(info.path)):
            name = PurePosixPath(info.path).name
            if not name.startswith((".", "_")) and (info.type == pafs.FileType.Directory or _format_of(name)):
                entries.setdefault(_SHARD.sub("", name.partition(".")[0]), []).append(uri_of(info.path))
        return entries


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


def _format_of(path: str) -> str | None:
    """Name of a file's format by its suffixes; None if unknown. Only lines are compressed."""
    suffixes = PurePosixPath(path.lower()).suffixes
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    suffix = suffixes[-1 - compressed] if len(suffixes) > compressed else None
    for name, reader in READERS.items():
        if suffix in reader.suffixes:
            return None if compressed and reader.is_table else name
    return None


def _expected_formats() -> str:
    """Suffixes of the known formats, for messages."""
    tables, lines = (
        [reader.suffixes[0] for reader in READERS.values() if reader.suffixes and reader.is_table == is_table]
        for is_table in (True, False)
    )
    return f"{_join(lines)} (also {', '.join(COMPRESSIONS)}), {_join(tables)}"


def _join(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
