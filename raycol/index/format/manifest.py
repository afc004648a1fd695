"""Manifests: the complete state of an index at one version, one JSON file per version.

Files are `manifests/00000001.json` and so on; the highest number is the current version. A reader opens one manifest
and only the files that it names, so it never sees a partial write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, TypeVar

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from raycol.errors import ConflictError, IndexCorruptError, InputError, RaycolError, writing
from raycol.index.format.columns import ColumnType, check_column_name
from raycol.storage.checked_files import FileInfo, Files, Name
from raycol.storage.sectioned_file import MAX_TABLE_BYTES
from raycol.storage.store import MANIFESTS, Store

FORMAT_VERSION = 3
# The earlier version that `raycol index migrate` reads.
MIGRATED_VERSION = 2
CODEBOOKS = "codebooks"
PARTITIONS = "partitions"
DELETES = "deletes"
# Unfinished builds, and the report of the last one (raycol.indexing).
BUILDS = "builds"
REPORT = "build-report.json"
# The version that endpoints serve, if one was chosen (raycol.serving).
SERVED = "served.json"

# About 30,000 partitions, 20,000 with deletes. Reading or rejecting any file of this size takes at most a second and
# 300 MB of memory.
MAX_MANIFEST_BYTES = 9 << 20

# Kept free by `check_room`: about 200 partitions.
_ROOM = 64 << 10

_MANIFEST_NAME = re.compile(r"(\d{8})\.json")

# The head is the same in all format versions; the rest, checksum included, depends on the version.
_HEAD = re.compile(rb'\{\s*"format":\s*"raycol-index",\s*"format_version":\s*(\d{1,9}),')
_ENVELOPE = b'{"format":"raycol-index","format_version":%d,"checksum":"%s",\n"manifest":%s}\n'

Count = Annotated[int, Field(ge=1, lt=2**48)]
Error = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


def _column_name(name: str) -> str:
    try:
        return check_column_name(name)
    except InputError as error:  # pydantic only turns ValueError into a validation error
        raise ValueError(str(error)) from None


class SearchSettings(BaseModel):
    """`n_probe`: inverted lists that each query token visits; `n_rescore`: documents rescored at first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_probe: Annotated[int, Field(ge=1, lt=2**31)]
    n_rescore: Annotated[int, Field(ge=1, lt=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CodebookInfo(_Record):
    """Manifest entry of the codebook: folder, files, size and quantisation error.

    `error` is the mean of 1 - cosine(token, decoded token) over tokens held out of training.
    """

    name: Name
    n_centroids: Annotated[int, Field(ge=1, lt=2**31)]
    error: Error
    files: Files


class DeletesInfo(_Record):
    """Manifest entry of a partition's deletes: folder, files, and the number of deleted documents and tokens."""

    name: Name
    documents: Count
    tokens: Count
    files: Files


class TableInfo(FileInfo):
    """Length and checksum of a table of sections."""

    bytes: Annotated[int, Field(ge=2, lt=MAX_TABLE_BYTES)]


class PartitionInfo(_Record):
    """Manifest entry of an immutable partition: folder, files, sizes and deletes.

    `documents` and `tokens` include deleted ones. `error` is the mean of 1 - cosine(token, decoded token). `table` is
    the table of the sections at the end of the one file.
    """

    name: Name
    documents: Count
    tokens: Annotated[int, Field(ge=1, lt=2**32)]
    id_bytes: Count
    error: Error
    files: Files
    table: TableInfo
    deletes: DeletesInfo | None = None

    @model_validator(mode="after")
    def _check(self) -> PartitionInfo:
        if self.documents > self.tokens:
            raise ValueError("more documents than tokens")
        deletes = self.deletes
        if deletes and (deletes.documents > self.documents or deletes.tokens > self.tokens):
            raise ValueError("more deleted documents or tokens than the partition has")
        return self

    @property
    def live_documents(self) -> int:
        """Number of documents that are not deleted."""
        return self.documents - (self.deletes.documents if self.deletes else 0)

    @property
    def live_tokens(self) -> int:
        """Number of tokens of the documents that are not deleted."""
        return self.tokens - (self.deletes.tokens if self.deletes else 0)


class ModelInfo(_Record):
    """The encoder of the embeddings: its name or path, and the fingerprint that queries' encoders must match."""

    name: str
    fingerprint: str


class SplitInfo(_Record):
    """How documents were split into passages: tokens per passage, and tokens that neighbouring passages share."""

    tokens: Annotated[int, Field(ge=1, lt=2**20)]
    overlap: Annotated[int, Field(ge=0, lt=2**20)] = 0

    @model_validator(mode="after")
    def _check(self) -> SplitInfo:
        if self.overlap >= self.tokens:
            raise ValueError("the overlap is not shorter than a passage")
        return self


def passage_id(document_id: str, number: int) -> str:
    """Return the id of passage `number` of a split document."""
    return f"{document_id}#{number}"


def parent_document_id(id_: str) -> str:
    """Return the id of the document that a passage belongs to; the id itself if it is not a passage id."""
    document_id, separator, number = id_.rpartition("#")
    return document_id if separator and document_id and number.isdecimal() else id_


class Manifest(_Record):
    """The state of an index at one version (docs/index-format.md describes each key)."""

    version: Annotated[int, Field(ge=1, lt=10**8)]
    dim: Annotated[int, Field(ge=8, le=65536, multiple_of=8)]
    bits: Literal[1, 2, 4, 8]
    seed: int
    partition_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    pool_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    columns: dict[Annotated[str, AfterValidator(_column_name)], ColumnType]
    model: ModelInfo | None
    split: SplitInfo | None = None
    tuned: SearchSettings | None = None
    codebook: CodebookInfo
    partitions: Annotated[tuple[PartitionInfo, ...], FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if len({info.name for info in self.partitions}) < len(self.partitions):
            raise ValueError("a partition is named twice")
        deletes = [info.deletes.name for info in self.partitions if info.deletes]
        if len(set(deletes)) < len(deletes):
            raise ValueError("deletes are named twice")
        return self

    @property
    def documents(self) -> int:
        """Number of documents in the index, without deleted ones."""
        return sum(info.live_documents for info in self.partitions)

    @property
    def tokens(self) -> int:
        """Number of tokens in the index, without those of deleted documents."""
        return sum(info.live_tokens for info in self.partitions)

    @property
    def folders(self) -> dict[str, Files]:
        """Files of every folder that this version uses, by the folder's name in the store."""
        folders = {f"{CODEBOOKS}/{self.codebook.name}": self.codebook.files}
        for info in self.partitions:
            folders[f"{PARTITIONS}/{info.name}"] = info.files
            if info.deletes:
                folders[f"{DELETES}/{info.deletes.name}"] = info.deletes.files
        return folders

    def next(self, partitions: Iterable[PartitionInfo]) -> Manifest:
        """Return the manifest of the next version, with these partitions."""
        return self.model_copy(update={"version": self.version + 1, "partitions": tuple(partitions)})

    @property
    def size(self) -> int:
        """Size of the manifest's file in bytes."""
        return len(_seal(self.model_dump_json().encode()))


_Manifest = TypeVar("_Manifest", bound=Manifest)


def manifest_name(version: int) -> str:
    """Return the name of a version's manifest in the store."""
    return f"{MANIFESTS}/{version:08d}.json"


def versions(store: Store) -> list[int]:
    """Return the versions of an index, ascending; empty if there is no index."""
    names = store.names(MANIFESTS)
    return sorted(int(match[1]) for name in names if (match := _MANIFEST_NAME.fullmatch(name)))


def read_manifest(store: Store, version: int | None = None) -> Manifest:
    """Read one version of an index, by default the current one.

    Raises:
        InputError: no index, no such version, or a manifest of another format version.
        IndexCorruptError: the manifest is damaged or was not written by raycol.
    """
    return read_manifest_as(Manifest, FORMAT_VERSION, store, version)


def read_manifest_as(
    kind: type[_Manifest], format_version: int, store: Store, version: int | None = None
) -> _Manifest:
    """Read a manifest of any format version as a subclass of `Manifest`; see `read_manifest`."""
    existing = versions(store)
    if not existing:
        raise InputError(f"{store}: {store.why_not_an_index()}")
    if version is None:
        version = existing[-1]
    if version not in existing:
        raise InputError(f"{store}: no version {version}; expected one of {', '.join(map(str, existing))}")
    name = manifest_name(version)
    location = store.location(name)
    try:
        content = store.read(name, MAX_MANIFEST_BYTES)
        if len(content) > MAX_MANIFEST_BYTES:
            raise IndexCorruptError(f"{location}: not a manifest (longer than {MAX_MANIFEST_BYTES} bytes)")
        body = _open_envelope(content, location, format_version)
        if _has_too_many_values(body):
            raise IndexCorruptError(f"{location}: not a manifest (too many values for its length)")
        manifest = kind.model_validate_json(body)
    except FileNotFoundError:
        raise InputError(f"{store}: version {version} was vacuumed meanwhile; open a newer one") from None
    except (ValidationError, OSError, RecursionError) as error:
        raise IndexCorruptError(f"{location}: not a manifest ({_first_reason(error)})") from None
    if manifest.version != version:
        raise IndexCorruptError(f"{location}: holds version {manifest.version}; expected {version}")
    return manifest


def _open_envelope(content: bytes, location: str, expected: int) -> bytes:
    """Check format version and checksum; return the manifest's JSON object."""
    head = _HEAD.match(content)
    if not head:
        raise IndexCorruptError(f"{location}: not a manifest (it does not begin with the format and its version)")
    format_version = int(head[1])
    if format_version != expected:
        if format_version > FORMAT_VERSION:
            advice = "Use a newer raycol"
        elif format_version == FORMAT_VERSION:
            advice = "It needs no migration"
        elif format_version == MIGRATED_VERSION:
            advice = "Rewrite it with: raycol index migrate OLD NEW"
        else:
            advice = "Build the index again"
        raise InputError(f"{location}: format version {format_version}; expected version {expected}. {advice}")
    body = content[len(_ENVELOPE % (format_version, b"0" * 32, b"")) - 2 : -2]
    if content != _seal(body, format_version):
        raise IndexCorruptError(f"{location}: checksum mismatch; restore the file, or open an earlier version")
    return body


def _has_too_many_values(body: bytes) -> bool:
    """Whether a body has more values than a manifest of its length can have: parsing them could cost gigabytes."""
    return body.count(b",") + body.count(b"{") + body.count(b"[") > len(body) // 16 + 10_000


def _seal(body: bytes, format_version: int = FORMAT_VERSION) -> bytes:
    return _ENVELOPE % (format_version, xxhash.xxh3_128_hexdigest(body).encode(), body)


def check_current(store: Store, version: int) -> None:
    """Raise `ConflictError` if a version is no longer the newest; called before long work, to fail early."""
    existing = versions(store)
    if existing and existing[-1] != version:
        raise ConflictError(
            f"{store}: version {existing[-1]} was written by another process meanwhile; expected version {version}; "
            "open the index again and repeat"
        )


def check_room(store: Store, manifest: Manifest) -> None:
    """Raise `InputError` if a manifest has no room for more partitions, before they are made."""
    if manifest.size + _ROOM > MAX_MANIFEST_BYTES:
        raise InputError(
            f"{store}: the manifest of {len(manifest.partitions)} partitions takes {manifest.size} bytes, nearly all "
            f"of the {MAX_MANIFEST_BYTES} allowed; compact the index, then repeat"
        )


@contextmanager
def writing_from(store: Store, version: int) -> Iterator[None]:
    """Run a writer that started from a version (0 for a new index), and raise `ConflictError` if it lost a race.

    The commit comes after it: what fails once a version is there must not be taken for a lost race.

    Leaves the files of a failed writer to `vacuum`: folders are named after their contents, so another writer of the
    same documents may have committed the same folders.

    Raises:
        ConflictError: the writer failed because another one committed first and a vacuum removed its files.
    """
    try:
        yield
    except (ConflictError, InputError):
        raise
    except (RaycolError, OSError) as error:
        try:
            check_current(store, version)
        except ConflictError as conflict:
            raise conflict from error
        except RaycolError:  # the store is unreachable: the original error is the more useful one
            pass
        raise


def commit_manifest(store: Store, manifest: Manifest) -> None:
    """Commit a manifest: create its file, which makes it the current version.

    Raises:
        ConflictError: another writer committed the version first; the index is unchanged.
        InputError: the manifest is too long.
        RaycolError: writing failed.
    """
    body = manifest.model_dump_json().encode()
    content = _seal(body)
    if len(content) > MAX_MANIFEST_BYTES or _has_too_many_values(body):
        raise InputError(
            f"{store}: the manifest of {len(manifest.partitions)} partitions takes {len(content)} bytes; expected at "
            f"most {MAX_MANIFEST_BYTES}. Compact the index, or build it with larger partitions"
        )
    with writing(store):
        try:
            name, base = manifest_name(manifest.version), manifest.version - 1
            store.create(name, content, lambda: check_current(store, base))
        except FileExistsError:
            raise ConflictError(
                f"{store}: version {manifest.version} was written by another process meanwhile; nothing was changed. "
                "Open the index again and repeat"
            ) from None


def _first_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        if error.error_count() > 1000:  # `errors` would make a dict of each
            return f"{error.error_count()} invalid values"
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".strip(": ")[:200]
    return str(error)[:200]
