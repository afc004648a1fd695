"""Where a job keeps its files until it is finished, and how the result appears whole: in a local or shared folder.

The same in an object store: `remote_place.py`.
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
from raycol.core.uris import is_uri
from raycol.errors import InputError, writing
from raycol.storage import open_store
from raycol.storage.checked_files import ChecksumWriter, fsync_folder, save_bytes

_PART = "part-"
_LOCK = ".lock"


class Place(ABC):
    """Files of an unfinished job. `location` opens it again, from any process."""

    location: str

    def __str__(self) -> str:
        return self.location

    def at_work(self) -> AbstractContextManager[None]:
        """Around a job's work. Raises `InputError` if another command is at work there, as far as that is known."""
        return nullcontext()

    def is_at_work(self) -> bool:
        """Whether a command is known to be at work there."""
        return False

    @abstractmethod
    def begin(self, record: str, content: bytes, work: Path) -> None:
        """Begin, or go on: write what the job is, and make a local folder's files its input."""

    @abstractmethod
    def work(self, name: str) -> Path:
        """A local file of the input."""

    @abstractmethod
    def save(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole or not at all."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        """A file of a finished part. Raises `OSError` or Arrow's errors where it is not there, or not whole."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A small file. Raises `OSError` where there is none."""

    @abstractmethod
    def parts(self) -> list[str]:
        """Names of the finished parts, in order."""

    @abstractmethod
    def finish(self, out: str, name: str, report: bytes) -> None:
        """Make the finished parts and a report the result."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing behind."""


class LocalPlace(Place):
    """A folder beside the result, which it becomes."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._folder = Path(location)
        self._lock = self._folder / _LOCK

    def at_work(self) -> AbstractContextManager[None]:
        """By a lock, which ends with its process."""
        return file_lock(self._lock, "at work")

    def is_at_work(self) -> bool:
        """By the lock."""
        return is_locked(self._lock)

    def begin(self, record: str, content: bytes, work: Path) -> None:
        """The input is moved here."""
        if self.is_at_work():
            raise InputError(f"{self._folder}: another command is at work there; wait until it ends, or stop it")
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._replace(record, content)
            before = self._folder / f".{uuid.uuid4().hex}"
            if self.work("").exists():  # by a run that was interrupted; its files may not have reached the disk
                os.rename(self.work(""), before)
            os.rename(work, self.work(""))
            shutil.rmtree(before, ignore_errors=True)

    def work(self, name: str) -> Path:
        """The file itself."""
        return self._folder / "work" / name

    def save(self, name: str, table: pa.Table) -> None:
        """Write beside, flush, then under its name."""
        beside = self._folder / f".{uuid.uuid4().hex}"
        with writing(self._folder):
            try:
                with ChecksumWriter(beside) as file:
                    pq.write_table(table, file, compression="zstd")
                os.replace(beside, self._folder / name)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            fsync_folder(self._folder)

    @contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Read from the file itself."""
        with pq.ParquetFile(self._folder / name) as file:
            yield file

    def read(self, name: str) -> bytes:
        """A small file."""
        return (self._folder / name).read_bytes()

    def parts(self) -> list[str]:
        """By the folder's list."""
        return as_parts(os.listdir(self._folder))

    def finish(self, out: str, name: str, report: bytes) -> None:
        """Leave only what the result is made of, and give the folder its name."""
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
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _replace(self, name: str, content: bytes) -> None:
        beside = self._folder / f".{uuid.uuid4().hex}"
        save_bytes(beside, content)
        os.replace(beside, self._folder / name)


def open_place(location: str) -> Place:
    """The place at a folder or URI."""
    if not is_uri(location):
        return LocalPlace(location)
    from raycol.mining.remote_workspace import RemotePlace

    return RemotePlace(location)


def place_for(out: str, fingerprint: str) -> Place:
    """The place of a job by what decides its outcome."""
    if is_uri(out):
        from raycol.mining.remote_workspace import location_for

        return open_place(location_for(out, fingerprint))
    final = Path(out).absolute()
    return LocalPlace(str(final.parent / f".{final.name}-unfinished-{fingerprint}"))


def unfinished(out: str) -> list[Place]:
    """Places of all jobs of one result that were begun and not finished."""
    if is_uri(out):
        from raycol.mining.remote_workspace import locations_beside

        return [open_place(location) for location in locations_beside(out)]
    return [LocalPlace(str(folder)) for folder in beside(out, "unfinished")]


def refuse_finished(out: str) -> None:
    """Raise `InputError` where there is something already, or nothing can be written."""
    if is_uri(out):
        from raycol.mining.remote_workspace import is_finished

        there = is_finished(out)
    else:
        there = os.path.lexists(out)
    if there:
        raise InputError(f"{out}: exists already; choose another folder, or remove it")
    if not is_uri(out):
        open_store(out).check_writable()


def beside(out: str, what: str) -> list[Path]:
    """Local folders of one kind beside a result, by any command."""
    final = Path(out).absolute()
    return [Path(found) for found in glob.glob(glob.escape(str(final.parent / f".{final.name}-{what}-")) + "*")]


def part_name(number: int) -> str:
    """The name of a finished part's file."""
    return f"{_PART}{number:05d}.parquet"


def as_parts(names: list[str]) -> list[str]:
    """Those names that are of finished parts, in order."""
    return sorted(name for name in names if name.startswith(_PART) and name.endswith(".parquet"))
