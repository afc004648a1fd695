"""Manifests: the whole state of an index at one version, as numbered JSON files.

`manifests/00000001.json` and so on; the highest number is current. A reader opens one manifest and sees
only what it names, so nothing half-written is ever part of an index.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.index.document import ColumnType
from raycol.index.storage import Files, Name, create_file

FORMAT_VERSION = 1
MANIFESTS = "manifests"
PARTITIONS = "partitions"

_MANIFEST_NAME = re.compile(r"(\d{8})\.json")

Count = Annotated[int, Field(ge=0, lt=2**48)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Header(BaseModel):
    """What every version of the format has, whatever else it may have."""

    format: Literal["raycol-index"]
    format_version: int


class CodebookInfo(_Record):
    """The codebook: its folder, its files and its shape."""

    name: Name
    n_centroids: Annotated[int, Field(ge=1, lt=2**32)]
    files: Files


class PartitionInfo(_Record):
    """One immutable partition: its folder, its files and how much is in it."""

    id: Name
    documents: Count
    tokens: Count
    files: Files


class ModelInfo(_Record):
    """The encoder the embeddings came from: how to open it, and the fingerprint it must have."""

    name: str
    fingerprint: str


class Manifest(_Record):
    """The state of an index at one version."""

    format: Literal["raycol-index"] = "raycol-index"
    format_version: int = FORMAT_VERSION
    version: Annotated[int, Field(ge=1, lt=10**8)]
    dim: Annotated[int, Field(ge=8, le=65536, multiple_of=8)]
    bits: Literal[1, 2, 4, 8]
    seed: int
    columns: dict[str, ColumnType]
    model: ModelInfo | None
    codebook: CodebookInfo
    partitions: tuple[PartitionInfo, ...]

    @property
    def documents(self) -> int:
        """Documents in the index."""
        return sum(partition.documents for partition in self.partitions)

    @property
    def tokens(self) -> int:
        """Tokens in the index."""
        return sum(partition.tokens for partition in self.partitions)


def versions(root: Path) -> list[int]:
    """The versions that an index holds, ascending; empty where the folder is not an index."""
    folder = root / MANIFESTS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _MANIFEST_NAME.fullmatch(name)))


def read_manifest(root: Path, version: int | None = None) -> Manifest:
    """Read one version of an index, by default the current one.

    Raises:
        InputError: there is no index, no such version, or it is of a newer format.
        IndexCorruptError: the manifest is not what raycol writes.
    """
    have = versions(root)
    if not root.is_dir():
        found = "is a file" if root.exists() else "no such folder"
        raise InputError(f"{root}: {found}; expected the folder of an index (build one with: raycol index build)")
    if not have:
        started = (root / PARTITIONS).is_dir()
        what = "an unfinished build; run the same build again to finish it" if started else "not an index"
        raise InputError(f"{root}: {what} (no {MANIFESTS}/ in this folder)")
    if version is None:
        version = have[-1]
    if version not in have:
        raise InputError(f"{root}: no version {version}; it holds {', '.join(map(str, have))}")
    path = root / MANIFESTS / f"{version:08d}.json"
    try:
        content = path.read_bytes()
        format_version = _Header.model_validate_json(content).format_version
        if format_version != FORMAT_VERSION:
            raise InputError(f"{path}: format version {format_version}; this raycol reads version {FORMAT_VERSION}")
        manifest = Manifest.model_validate_json(content)
    except (ValidationError, OSError, RecursionError) as error:
        raise IndexCorruptError(f"{path}: not a manifest ({_first_reason(error)})") from None
    if manifest.version != version:
        raise IndexCorruptError(f"{path}: says it is version {manifest.version}")
    return manifest


def commit_manifest(root: Path, manifest: Manifest) -> None:
    """Make a manifest the current one. Raises `RaycolError` where another writer took its number first."""
    path = root / MANIFESTS / f"{manifest.version:08d}.json"
    content = manifest.model_dump_json(indent=1).encode() + b"\n"
    with writing(root):
        try:
            create_file(path, content)
        except FileExistsError:
            raise RaycolError(
                f"{root}: version {manifest.version} was written by another process meanwhile; run again"
            ) from None


def _first_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".strip(": ")
    return str(error)
