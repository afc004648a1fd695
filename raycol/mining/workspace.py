"""The files of an unfinished job, and how they become the result at once: the interface, and a local folder.

In an object store: `remote_workspace.py`. `opening.py` chooses between the two.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raycol.core.locks import file_lock, is_locked
from raycol.errors import InputError, writing
from raycol.storage.checked_files import ChecksumWriter, fsync_folder, save_bytes

_PART = "part-"
_LOCK = ".lock"


class Workspace(ABC):
    """Files of an unfinished job. Any process can open it by its `location`."""

    location: str

    def __str__(self) -> str:
        return self.location

    def lock(self) -> AbstractContextManager[None]:
        """Keep other commands out while the job runs, where the storage has locks. Raises `InputError` if locked."""
        return nullcontext()

    def is_locked(self) -> bool:
        """Whether another command holds the lock; always False where the storage has none."""
        return False

    @abstractmethod
    def begin(self, record: str, content: bytes, inputs: Path) -> None:
        """Start or resume a job: write its record, and take over the files of the local folder `inputs`."""

    @abstractmethod
    def input_file(self, name: str) -> Path:
        """Return the local path of an input file."""

    @abstractmethod
    def save(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole or not at all."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        """Open a finished part. Raises `OSError` or an Arrow error if it is missing or incomplete."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the contents of a small file. Raises `OSError` if it is missing."""

    @abstractmethod
    def parts(self) -> list[str]:
        """Return the file names of the finished parts, in order."""

    @abstractmethod
    def finish(self, out: str, name: str, report: bytes) -> None:
        """Turn the finished parts and the report into the result at `out`."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the workspace."""


class LocalWorkspace(Workspace):
    """A folder beside the result, which `finish` renames to the result."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._folder = Path(location)
        self._lock = self._folder / _LOCK

    def lock(self) -> AbstractContextManager[None]:
        """Hold a lock file; the operating system releases it when the process dies."""
        return file_lock(self._lock, "running")

    def is_locked(self) -> bool:
        """Whether another process holds the lock file."""
        return is_locked(self._lock)

    def begin(self, record: str, content: bytes, inputs: Path) -> None:
        """Write the record, and move the inputs into the workspace."""
        if self.is_locked():
            raise InputError(f"{self._folder}: another command is running there; wait until it ends, or stop it")
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._replace(record, content)
            previous = self._folder / f".{uuid.uuid4().hex}"
            if self.input_file("").exists():  # of an interrupted run, perhaps never flushed to disk
                os.rename(self.input_file(""), previous)
            os.rename(inputs, self.input_file(""))
            shutil.rmtree(previous, ignore_errors=True)

    def input_file(self, name: str) -> Path:
        """Return the path of an input file."""
        return self._folder / "work" / name

    def save(self, name: str, table: pa.Table) -> None:
        """Write a temporary file, flush it, and rename it."""
        temporary = self._folder / f".{uuid.uuid4().hex}"
        with writing(self._folder):
            try:
                with ChecksumWriter(temporary) as file:
                    pq.write_table(table, file, compression="zstd")
                os.replace(temporary, self._folder / name)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            fsync_folder(self._folder)

    @contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a finished part."""
        with pq.ParquetFile(self._folder / name) as file:
            yield file

    def read(self, name: str) -> bytes:
        """Return the contents of a small file."""
        return (self._folder / name).read_bytes()

    def parts(self) -> list[str]:
        """Return the file names of the finished parts, in order."""
        return part_files(os.listdir(self._folder))

    def finish(self, out: str, name: str, report: bytes) -> None:
        """Write the report, delete all other files than the parts, and rename the folder to `out`."""
        final = Path(out)
        with writing(out):
            self._replace(name, report)
            for path in self._folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != name and not path.name.startswith(_PART):
                    path.unlink(missing_ok=True)
            fsync_folder(self._folder)
            os.rename(self._folder, final)
            fsync_folder(final.parent)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self._folder / f".{uuid.uuid4().hex}"
        save_bytes(temporary, content)
        os.replace(temporary, self._folder / name)


def sibling_folders(out: str, kind: str) -> list[Path]:
    """Return the folders `.<name of out>-<kind>-*` beside a local result, of any command."""
    final = Path(out).absolute()
    return [Path(path) for path in glob.glob(glob.escape(str(final.parent / f".{final.name}-{kind}-")) + "*")]


def part_name(number: int) -> str:
    """File name of a finished part."""
    return f"{_PART}{number:05d}.parquet"


def part_files(names: list[str]) -> list[str]:
    """Return the names that are of finished parts, in order."""
    return sorted(name for name in names if name.startswith(_PART) and name.endswith(".parquet"))
