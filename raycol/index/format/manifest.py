"""Manifests: the whole state of an index at one version, as numbered JSON files.

`manifests/00000001.json` and so on; the highest number is current. A reader opens one manifest and sees
only what it names, so nothing half-written is ever part of an index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from raycol.errors import ConflictError, IndexCorruptError, InputError, RaycolError, writing
from raycol.index.format.columns import ColumnType, check_column_name
from raycol.index.search.effort import SearchSettings
from raycol.storage import MANIFESTS, Files, Name, Store

FORMAT_VERSION = 2
CODEBOOKS = "codebooks"
PARTITIONS = "partitions"
DELETES = "deletes"
# Records of builds under way, and the report of the last one (raycol.indexing).
BUILDS = "builds"
REPORT = "build-report.json"
# Which version endpoints serve (raycol.serving).
SERVED = "served.json"

# Eight thousand partitions. Whatever stands in so much is read or refused in a second, and in 300 MB.
MAX_MANIFEST_BYTES = 8 << 20

_MANIFEST_NAME = re.compile(r"(\d{8})\.json")

# How a manifest of any format version begins; what follows, and how it is checked, is the version's own affair.
_HEAD = re.compile(rb'\{\s*"format":\s*"raycol-index",\s*"format_version":\s*(\d{1,9}),')
_ENVELOPE = b'{"format":"raycol-index","format_version":%d,"checksum":"%s",\n"manifest":%s}\n'

Count = Annotated[int, Field(ge=1, lt=2**48)]
Error = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


def _column_name(name: str) -> str:
    try:
        return check_column_name(name)
    except InputError as error:  # which pydantic would let through
        raise ValueError(str(error)) from None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CodebookInfo(_Record):
    """The codebook: its folder, its files, its shape, and how far off it was when it was new.

    `error` is the mean of 1 - cosine between a token and what it decodes to, over tokens held out of training.
    """

    name: Name
    n_centroids: Annotated[int, Field(ge=1, lt=2**31)]
    error: Error
    files: Files


class DeletesInfo(_Record):
    """The documents of a partition that are no longer in the index."""

    name: Name
    documents: Count
    tokens: Count
    files: Files


class PartitionInfo(_Record):
    """One immutable partition: its folder, its files, how much is in it, and what has been deleted since.

    `error` is the mean of 1 - cosine between its tokens and what they decode to.
    """

    name: Name
    documents: Count
    tokens: Annotated[int, Field(ge=1, lt=2**32)]
    id_bytes: Count
    error: Error
    files: Files
    deletes: DeletesInfo | None = None

    @model_validator(mode="after")
    def _check(self) -> PartitionInfo:
        if self.documents > self.tokens:
            raise ValueError("more documents than tokens")
        gone = self.deletes
        if gone and (gone.documents > self.documents or gone.tokens > self.tokens):
            raise ValueError("more was deleted than was there")
        return self

    @property
    def live_documents(self) -> int:
        """Documents that are in the index."""
        return self.documents - (self.deletes.documents if self.deletes else 0)

    @property
    def live_tokens(self) -> int:
        """Tokens of the documents that are in the index."""
        return self.tokens - (self.deletes.tokens if self.deletes else 0)


class ModelInfo(_Record):
    """The encoder the embeddings came from: how to open it, and the fingerprint it must have."""

    name: str
    fingerprint: str


class SplitInfo(_Record):
    """How long documents were split before encoding: passages of so many tokens, of which two share so many."""

    tokens: Annotated[int, Field(ge=1, lt=2**20)]
    overlap: Annotated[int, Field(ge=0, lt=2**20)] = 0

    @model_validator(mode="after")
    def _check(self) -> SplitInfo:
        if self.overlap >= self.tokens:
            raise ValueError("an overlap of a whole passage")
        return self


def passage_id(document_id: str, number: int) -> str:
    """The id of a passage of a document that is split."""
    return f"{document_id}#{number}"


def document_of(id_: str) -> str:
    """The id of the document that a passage is a part of; the id itself if it is not of a passage."""
    document_id, sign, number = id_.rpartition("#")
    return document_id if sign and document_id and number.isdecimal() else id_


class Manifest(_Record):
    """The state of an index at one version."""

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
        """Documents in the index."""
        return sum(info.live_documents for info in self.partitions)

    @property
    def tokens(self) -> int:
        """Tokens in the index."""
        return sum(info.live_tokens for info in self.partitions)

    @property
    def folders(self) -> dict[str, Files]:
        """Every folder that this version needs, by its name in the store."""
        found = {f"{CODEBOOKS}/{self.codebook.name}": self.codebook.files}
        for info in self.partitions:
            found[f"{PARTITIONS}/{info.name}"] = info.files
            if info.deletes:
                found[f"{DELETES}/{info.deletes.name}"] = info.deletes.files
        return found

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return len(_seal(self.model_dump_json().encode()))


def manifest_name(version: int) -> str:
    """Where the manifest of a version is, in the store."""
    return f"{MANIFESTS}/{version:08d}.json"


def versions(store: Store) -> list[int]:
    """The versions that an index holds, ascending; empty where there is no index."""
    names = store.names(MANIFESTS)
    return sorted(int(match[1]) for name in names if (match := _MANIFEST_NAME.fullmatch(name)))


def read_manifest(store: Store, version: int | None = None) -> Manifest:
    """Read one version of an index, by default the current one.

    Raises:
        InputError: there is no index, no such version, or it is of another format version.
        IndexCorruptError: the manifest is not what raycol writes.
    """
    have = versions(store)
    if not have:
        raise InputError(f"{store}: {store.why_not_an_index()}")
    if version is None:
        version = have[-1]
    if version not in have:
        raise InputError(f"{store}: no version {version}; it holds {', '.join(map(str, have))}")
    name = manifest_name(version)
    place = store.location(name)
    try:
        content = store.read(name, MAX_MANIFEST_BYTES)
        if len(content) > MAX_MANIFEST_BYTES:
            raise IndexCorruptError(f"{place}: more than {MAX_MANIFEST_BYTES} bytes; no manifest is that long")
        body = _open_envelope(content, place)
        if _is_crowded(body):
            raise IndexCorruptError(f"{place}: not a manifest (more values than fit its length)")
        manifest = Manifest.model_validate_json(body)
    except FileNotFoundError:
        raise InputError(f"{store}: version {version} is gone; it has been vacuumed") from None
    except (ValidationError, OSError, RecursionError) as error:
        raise IndexCorruptError(f"{place}: not a manifest ({_first_reason(error)})") from None
    if manifest.version != version:
        raise IndexCorruptError(f"{place}: says it is version {manifest.version}")
    return manifest


def _open_envelope(content: bytes, place: str) -> bytes:
    """The manifest proper, which is the checksum's concern."""
    head = _HEAD.match(content)
    if not head:
        raise IndexCorruptError(f"{place}: not a manifest (it does not begin like one)")
    format_version = int(head[1])
    if format_version != FORMAT_VERSION:
        raise InputError(
            f"{place}: format version {format_version}; this raycol reads version {FORMAT_VERSION}. "
            f"{'Use a newer raycol' if format_version > FORMAT_VERSION else 'Build the index again'}"
        )
    body = content[len(_ENVELOPE % (FORMAT_VERSION, b"0" * 32, b"")) - 2 : -2]
    if content != _seal(body):
        raise IndexCorruptError(f"{place}: its checksum is wrong; restore the file, or open the version before it")
    return body


def _is_crowded(body: bytes) -> bool:
    """Whether there are more values than a manifest of this length has: parsing those costs gigabytes."""
    return body.count(b",") + body.count(b"{") + body.count(b"[") > len(body) // 16 + 10_000


def _seal(body: bytes) -> bytes:
    return _ENVELOPE % (FORMAT_VERSION, xxhash.xxh3_128_hexdigest(body).encode(), body)


def check_current(store: Store, version: int) -> None:
    """Raise `ConflictError` where a version is no longer the newest: before a long piece of work, not after."""
    have = versions(store)
    if have and have[-1] != version:
        raise ConflictError(
            f"{store}: version {have[-1]} was written by another process meanwhile, this is version {version}; "
            "open the index again and repeat"
        )


@contextmanager
def writing_from(store: Store, version: int) -> Iterator[None]:
    """Around the work of a writer that started from a version, 0 for a new index.

    What it has written by then stays if it fails, for a vacuum to remove: folders are named after their contents, so
    another writer of the same documents may have committed the same folders.

    Raises:
        ConflictError: it failed because another writer was first, and a vacuum has removed its files.
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
        except RaycolError:  # the store does not answer: what failed first says why
            pass
        raise


def commit_manifest(store: Store, manifest: Manifest) -> None:
    """Make a manifest the current one.

    Raises:
        ConflictError: another writer took its number first. Nothing of the index was changed.
        RaycolError: it cannot be written, or is too long.
    """
    body = manifest.model_dump_json().encode()
    content = _seal(body)
    if len(content) > MAX_MANIFEST_BYTES or _is_crowded(body):
        raise InputError(
            f"{store}: the manifest of {len(manifest.partitions)} partitions is longer than {MAX_MANIFEST_BYTES} "
            "bytes; compact the index, or build it with larger partitions"
        )
    with writing(store):
        try:
            name, before = manifest_name(manifest.version), manifest.version - 1
            store.create(name, content, lambda: check_current(store, before))
        except FileExistsError:
            raise ConflictError(
                f"{store}: version {manifest.version} was written by another process meanwhile; nothing was changed. "
                "Open the index again and repeat"
            ) from None


def _first_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        if error.error_count() > 1000:  # each of which would become a dict
            return f"{error.error_count()} values are not as they should be"
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".strip(": ")[:200]
    return str(error)[:200]
