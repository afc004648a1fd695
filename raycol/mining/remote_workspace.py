"""Where a job keeps its files until it is finished, in an object store.

    .<name>-unfinished-<fingerprint>/
        job.json, part-00000.parquet ...
        work.json                        which folder is the input, with lengths and checksums
        work/<hash>/...                  the input; its files are copied to the cache of a worker's machine

An object store has no rename, so a result of several files cannot appear at once: it is one file of all parts, a row
group each. That is put last, and appears whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from raycol.core.uris import join_uri, parent_uri, without_options
from raycol.errors import InputError, RaycolError, writing
from raycol.mining.report import MINING_REPORT, SCORING_REPORT
from raycol.mining.workspace import Place, as_parts, part_name
from raycol.storage import Files, content_name
from raycol.storage.checked_files import describe_file
from raycol.storage.object_store import RemoteStore

_INPUT = "work.json"
_MAX_BYTES = 64 << 20


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    files: Files


class RemotePlace(Place):
    """A prefix beside the result."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._store = RemoteStore(location)

    def __str__(self) -> str:
        return str(self._store)

    def begin(self, record: str, content: bytes, work: Path) -> None:
        """The input is uploaded, its record last."""
        files = {path.name: describe_file(path) for path in sorted(work.iterdir())}
        folder = f"work/{content_name(0, files)}"
        self._store.write(record, content)
        self._store.publish(work, folder, files)
        self._store.write(_INPUT, _Input(folder=folder, files=files).model_dump_json().encode())

    def work(self, name: str) -> Path:
        """A copy in the cache of this machine."""
        given = self._given
        return self._store.folder(given.folder, {name: given.files[name]}) / name

    @cached_property
    def _given(self) -> _Input:
        try:
            return _Input.model_validate_json(self._store.read(_INPUT, _MAX_BYTES))
        except (FileNotFoundError, ValueError):
            raise RaycolError(f"{self._store.location(_INPUT)}: gone or damaged; run the same command again") from None

    def save(self, name: str, table: pa.Table) -> None:
        """One object."""
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        self._store.write(name, content.getvalue().to_pybytes())

    @contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Only what is read of it is fetched."""
        with self._store.open(name) as source, pq.ParquetFile(source) as file:
            yield file

    def read(self, name: str) -> bytes:
        """A small object."""
        return self._store.read(name, _MAX_BYTES)

    def parts(self) -> list[str]:
        """By a listing."""
        return as_parts(self._store.names(""))

    def finish(self, out: str, name: str, report: bytes) -> None:
        """Put the report, then all parts in one object."""
        result = RemoteStore(out)
        with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
            path = Path(folder) / part_name(0)
            self._join(path)
            result.write(name, report)
            result.put(path.name, path)
        self.remove()

    def _join(self, path: Path) -> None:
        writer = None
        try:
            for part in self.parts():
                with self.open(part) as file:
                    table = file.read().replace_schema_metadata(None)
                with writing(path.parent):
                    writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                    writer.write_table(table, row_group_size=max(1, len(table)))
        finally:
            if writer:
                writer.close()

    def remove(self) -> None:
        """Remove the objects, and their copies on this machine."""
        self._store.remove("")


def location_for(out: str, fingerprint: str) -> str:
    """Where the unfinished files of a result are."""
    return join_uri(parent_uri(out), f".{_name(out)}-unfinished-{fingerprint}")


def locations_beside(out: str) -> list[str]:
    """Where there are unfinished files of a result, by any command."""
    start = f".{_name(out)}-unfinished-"
    parent = RemoteStore(parent_uri(out))
    return [join_uri(parent.uri, name) for name in parent.names("") if name.startswith(start)]


def is_finished(out: str) -> bool:
    """Whether there is a result, or something else; a report alone was left by a command that died at the very end."""
    _name(out)
    return bool(set(RemoteStore(out).names("")) - {MINING_REPORT, SCORING_REPORT})


def _name(out: str) -> str:
    name = urlsplit(without_options(out)).path.strip("/").rpartition("/")[2]
    if not name:
        raise InputError(f"{out}: expected a folder in the bucket")
    return name
