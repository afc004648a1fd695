"""The files of an unfinished job in an object store.

    .<name>-unfinished-<fingerprint>/
        job.json, part-00000.parquet ...
        work.json                        names the folder of inputs, with lengths and checksums
        work/<hash>/...                  the inputs; workers copy them into their machine's cache

An object store cannot rename, so several files cannot appear at once: the result is a single Parquet file with one row
group per part. It is uploaded last, and an upload is atomic.
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
from raycol.mining.workspace import Workspace, part_files, part_name
from raycol.storage import Files, content_name
from raycol.storage.checked_files import describe_file
from raycol.storage.object_store import RemoteStore

_INPUTS = "work.json"
_MAX_BYTES = 64 << 20


class _Inputs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    files: Files


class RemoteWorkspace(Workspace):
    """A prefix beside the result."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._store = RemoteStore(location)

    def __str__(self) -> str:
        return str(self._store)

    def begin(self, record: str, content: bytes, inputs: Path) -> None:
        """Write the record, and upload the inputs; `work.json` comes last."""
        files = {path.name: describe_file(path) for path in sorted(inputs.iterdir())}
        folder = f"work/{content_name(0, files)}"
        self._store.write(record, content)
        self._store.publish(inputs, folder, files)
        self._store.write(_INPUTS, _Inputs(folder=folder, files=files).model_dump_json().encode())

    def input_file(self, name: str) -> Path:
        """Return the path of an input file's copy in this machine's cache."""
        inputs = self._inputs
        return self._store.folder(inputs.folder, {name: inputs.files[name]}) / name

    @cached_property
    def _inputs(self) -> _Inputs:
        try:
            return _Inputs.model_validate_json(self._store.read(_INPUTS, _MAX_BYTES))
        except (FileNotFoundError, ValueError):
            raise RaycolError(
                f"{self._store.location(_INPUTS)}: missing or damaged; run the same command again"
            ) from None

    def save(self, name: str, table: pa.Table) -> None:
        """Upload a table as one Parquet object."""
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        self._store.write(name, content.getvalue().to_pybytes())

    @contextmanager
    def open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a finished part; only the byte ranges that are read are downloaded."""
        with self._store.open(name) as source, pq.ParquetFile(source) as file:
            yield file

    def read(self, name: str) -> bytes:
        """Return the contents of a small object."""
        return self._store.read(name, _MAX_BYTES)

    def parts(self) -> list[str]:
        """Return the names of the finished parts, in order."""
        return part_files(self._store.names(""))

    def finish(self, out: str, name: str, report: bytes) -> None:
        """Upload the report, then all parts as one object."""
        result = RemoteStore(out)
        with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
            path = Path(folder) / part_name(0)
            self._join(path)
            result.write(name, report)
            result.put(path.name, path)
        self.remove()

    def _join(self, path: Path) -> None:
        """Write all parts to one local Parquet file, a row group each."""
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
        """Delete the objects, and their copies in this machine's cache."""
        self._store.remove("")


def workspace_uri(out: str, fingerprint: str) -> str:
    """URI of the workspace of a job that writes `out`."""
    return join_uri(parent_uri(out), f".{_name(out)}-unfinished-{fingerprint}")


def unfinished_prefixes(out: str) -> list[str]:
    """URIs of the workspaces of all unfinished jobs that write `out`."""
    start = f".{_name(out)}-unfinished-"
    parent = RemoteStore(parent_uri(out))
    return [join_uri(parent.uri, name) for name in parent.names("") if name.startswith(start)]


def has_result(out: str) -> bool:
    """Whether `out` holds anything but a report, which a command that died before its last upload leaves behind."""
    _name(out)
    return bool(set(RemoteStore(out).names("")) - {MINING_REPORT, SCORING_REPORT})


def _name(out: str) -> str:
    name = urlsplit(without_options(out)).path.strip("/").rpartition("/")[2]
    if not name:
        raise InputError(f"{out}: expected a folder in the bucket, such as {out.rstrip('/')}/NAME")
    return name
