"""`Index`: create, open, search, change and look after an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import IndexCorruptError, InputError
from raycol.index.changes import Change, add_documents, delete_documents
from raycol.index.codebook import Codebook
from raycol.index.compact import compact
from raycol.index.create import PARTITION_TOKENS, create
from raycol.index.document import Document, check_embeddings
from raycol.index.manifest import Manifest, ModelInfo, read_manifest, versions
from raycol.index.partition import Partition
from raycol.index.search import N_PROBE, N_RESCORE, Hit, search, search_exact
from raycol.index.selection import OnUnknown, locate, select
from raycol.index.snapshot import Snapshot
from raycol.index.storage import open_store
from raycol.index.vacuum import Vacuumed, vacuum
from raycol.index.verify import verify_index


@dataclass(frozen=True)
class IndexStats:
    """What an index holds and what it takes.

    Args:
        version: the version that is open.
        versions: all versions there are.
        documents, tokens: those that can be found.
        deleted_documents, deleted_tokens: those that compaction would drop.
        partitions, dim, bits, n_centroids: its shape.
        bytes: of all files that this version needs, its manifest included.
        files: bytes by kind of file.
        drift: how much worse the codebook fits the index's tokens than it fitted those held out when it was
            trained: the ratio of the mean errors, 1 where nothing has changed.
    """

    version: int
    versions: tuple[int, ...]
    documents: int
    tokens: int
    deleted_documents: int
    deleted_tokens: int
    partitions: int
    dim: int
    bits: int
    n_centroids: int
    bytes: int
    files: dict[str, int] = field(repr=False)
    drift: float

    @property
    def bytes_per_token(self) -> float:
        """All files of the index over its tokens."""
        return self.bytes / self.tokens if self.tokens else float("nan")


class Index:
    """An index at one version, and the operations that make the next.

    What is open is a snapshot: it does not change with what other processes commit. A change through this object moves
    it to the version that the change made. Make one with `Index.create` or `Index.open`.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @classmethod
    def create(
        cls,
        uri: str | Path,
        documents: Iterable[Document],
        *,
        bits: int = 4,
        seed: int = 0,
        n_centroids: int | None = None,
        partition_tokens: int = PARTITION_TOKENS,
        pool_factor: float = 1,
        columns: Mapping[str, str] | None = None,
        model: ModelInfo | None = None,
    ) -> Index:
        """Build an index: train the codebook on a seeded sample, then quantise everything.

        `documents` is consumed once. They wait on disk, not in memory, until all of them are known to be good.

        Args:
            uri: a local path or a URI of pyarrow.fs (`s3://bucket/prefix`) that holds no index yet.
            documents: any iterable, generators included.
            bits: bits a dimension of the residual, 1, 2, 4 or 8.
            seed: seeds the sample and k-means; the same documents and seed give the same bytes.
            n_centroids: centroids of the codebook; None takes PLAID's 2^floor(log2(16 sqrt(tokens))).
            partition_tokens: tokens a partition: documents are put together until they have so many.
            pool_factor: keep about one token in so many, by hierarchical pooling; later documents are treated alike.
            columns: types of the metadata columns by name (string, int64, double, bool, date, timestamp); None infers
                them from the values. Documents added later may use these columns only.
            model: the encoder the embeddings came from, if it is to be remembered.

        Raises:
            InputError: no documents, an unusable one (named), or an index there already. Nothing is left behind.
            ConflictError: another process created one meanwhile.
            RaycolError: it cannot be written (disk full, no permission). No index is left behind.
        """
        store = open_store(uri)
        manifest = create(
            store,
            documents,
            bits=bits,
            seed=seed,
            n_centroids=n_centroids,
            partition_tokens=partition_tokens,
            pool_factor=pool_factor,
            columns=columns,
            model=model,
        )
        return cls(Snapshot.open(store, manifest))

    @classmethod
    def open(
        cls,
        uri: str | Path,
        version: int | None = None,
        *,
        partitions: Iterable[str] | None = None,
        trust: bool = False,
    ) -> Index:
        """Open one version of an index, by default the current one.

        Lengths and headers are checked now. Every byte of a partition is read and checked against its checksum the
        first time it is searched, which takes about as long as reading it.

        Args:
            uri: the index's folder or URI.
            version: which version; None for the newest.
            partitions: only the partitions of these names, as a shard does; None for all.
            trust: do not compute checksums before the first search; for repeated short runs over local files that
                `verify` has passed. Numbers that lead into arrays are checked all the same.

        Raises:
            InputError: there is no index, or no such version.
            IndexCorruptError: its files are not as its manifest promises.
        """
        store = open_store(uri)
        while True:
            manifest = read_manifest(store, version)
            try:
                return cls(Snapshot.open(store, manifest, partitions, trusted=trust))
            except IndexCorruptError:
                if manifest.version in versions(store):
                    raise
                # It was vacuumed while it was being opened: there is a newer one, or `read_manifest` says which are.

    @property
    def uri(self) -> str:
        """Where the index is."""
        return self._snapshot.store.uri

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version that is open."""
        return self._snapshot.manifest

    @property
    def version(self) -> int:
        """The version that is open."""
        return self._snapshot.manifest.version

    @property
    def codebook(self) -> Codebook:
        """The index's codebook."""
        return self._snapshot.codebook

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions that are open."""
        return self._snapshot.partitions

    def search(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        on_unknown: OnUnknown = "ignore",
        n_probe: int = N_PROBE,
        n_rescore: int = N_RESCORE,
    ) -> list[list[Hit]]:
        """The best `k` documents for each query, best first, equal scores by id.

        Args:
            queries: one float array [n_tokens, dim] a query (an array [queries, tokens, dim] is one too).
            k: hits a query; fewer where fewer documents may be found.
            filter: a SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020" (docs/filters.md).
            ids: only these documents; none of them gives no hits.
            on_unknown: `refuse` raises where one of `ids` is not in the index.
            n_probe: centroids whose lists each query token visits. More finds more and costs more.
            n_rescore: documents scored exactly, k at least.

        Which documents are scored exactly is estimated on the footing that tokens have one length, as every
        late-interaction encoder makes them; `exact` scores tokens of any length.

        Raises:
            InputError: a query with no tokens, another dimension, NaN; k or a setting below 1; an unusable filter.
            IndexCorruptError: a partition that is damaged. There are never silently fewer hits.
        """
        _check_positive(k=k, n_probe=n_probe, n_rescore=n_rescore)
        snapshot = self._snapshot
        checked = list(self._check_queries(queries))
        allowed = self._select(snapshot, filter, ids, on_unknown)
        return [
            search(
                query_QD,
                snapshot.codebook,
                snapshot.partitions,
                allowed,
                k=k,
                n_probe=n_probe,
                n_rescore=n_rescore,
            )
            for query_QD in checked
        ]

    def exact(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        on_unknown: OnUnknown = "ignore",
    ) -> list[list[Hit]]:
        """The best `k` documents for each query over every stored token: the reference for `search`."""
        _check_positive(k=k)
        snapshot = self._snapshot
        checked = list(self._check_queries(queries))
        allowed = self._select(snapshot, filter, ids, on_unknown)
        return [search_exact(query_QD, snapshot.codebook, snapshot.partitions, allowed, k=k) for query_QD in checked]

    def reconstruct(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """A document's embeddings as stored, float32 [n_tokens, dim]."""
        snapshot = self._snapshot
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, [id], "refuse"), strict=True):
            if len(positions):
                partition.check()
                return snapshot.codebook.decode(partition.tokens(int(positions[0])))
        raise AssertionError("locate refuses what it does not find")

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The metadata of documents, in the order of `ids`."""
        snapshot = self._snapshot
        found: dict[str, dict[str, Any]] = {}
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, ids, "refuse"), strict=True):
            if len(positions):
                rows = partition.rows(positions)
                found |= {partition.ids[position]: row for position, row in zip(positions, rows, strict=True)}
        return [found[id_] for id_ in ids]

    def append(self, documents: Iterable[Document]) -> Change:
        """Add documents, in one new version.

        They are quantised with the index's codebook (`stats().drift` says whether it still suits them).

        Raises:
            InputError: an unusable document, one that comes twice, or one that the index has already; it is named,
                and nothing is written.
            ConflictError: another writer committed first; nothing is changed. Open the index again and repeat.
            RaycolError: it cannot be written; the version before stands.
        """
        self._snapshot, change = add_documents(self._snapshot, documents, replace=False)
        return change

    def upsert(self, documents: Iterable[Document]) -> Change:
        """Add documents, or replace those of the same id, in one new version. Raises as `append` does."""
        self._snapshot, change = add_documents(self._snapshot, documents, replace=True)
        return change

    def delete(self, ids: Iterable[str], *, on_unknown: OnUnknown = "ignore") -> Change:
        """Delete documents, in one new version. They are not found from then on; `compact` removes their bytes.

        Args:
            ids: which documents.
            on_unknown: `refuse` raises where one is not in the index.
        """
        self._snapshot, change = delete_documents(self._snapshot, ids, on_unknown)
        return change

    def compact(self, target_tokens: int | None = None) -> int:
        """Merge small partitions and drop deleted documents, in one new version; returns the version.

        Args:
            target_tokens: tokens a partition; None takes what the index was created with. Partitions of less than
                half of it, and those with deleted documents, are rewritten.
        """
        self._snapshot = compact(self._snapshot, target_tokens or self.manifest.partition_tokens)
        return self.version

    def vacuum(self, keep: int = 2, *, abandoned: bool = False) -> Vacuumed:
        """Give up all versions but the newest `keep`, and remove what none of these needs.

        Args:
            keep: versions to keep, 1 at least.
            abandoned: remove also what unfinished writers left since the current version; only while none is at work.
        """
        return vacuum(self._snapshot.store, keep, abandoned=abandoned)

    def verify(self) -> list[str]:
        """Read every byte of every version; return one line for each file that is damaged, missing or too many."""
        return verify_index(self._snapshot.store)

    def stats(self) -> IndexStats:
        """Counts, sizes and drift."""
        snapshot = self._snapshot
        manifest = snapshot.manifest
        files: Counter[str] = Counter()
        for infos in manifest.folders.values():
            files.update({name: info.bytes for name, info in infos.items()})
        files["manifest.json"] = manifest.size
        tokens = sum(info.tokens for info in manifest.partitions)
        error = sum(info.error * info.tokens for info in manifest.partitions) / tokens if tokens else 0.0
        return IndexStats(
            version=manifest.version,
            versions=tuple(versions(snapshot.store)),
            documents=manifest.documents,
            tokens=manifest.tokens,
            deleted_documents=sum(info.documents for info in manifest.partitions) - manifest.documents,
            deleted_tokens=tokens - manifest.tokens,
            partitions=len(manifest.partitions),
            dim=manifest.dim,
            bits=manifest.bits,
            n_centroids=manifest.codebook.n_centroids,
            bytes=files.total(),
            files=dict(sorted(files.items())),
            drift=(error + 1e-6) / (manifest.codebook.error + 1e-6) if tokens else 1.0,
        )

    def __len__(self) -> int:
        return sum(partition.info.live_documents for partition in self._snapshot.partitions)

    def __contains__(self, id_: str) -> bool:
        return any(map(len, locate(self._snapshot.partitions, [id_])))

    def __repr__(self) -> str:
        return f"<Index {self.uri} version {self.version}: {len(self)} documents>"

    def _check_queries(self, queries: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
        for number, query in enumerate(queries):
            yield check_embeddings(query, self.manifest.dim, f"query {number}")

    @staticmethod
    def _select(
        snapshot: Snapshot, filter_: str | None, ids: Iterable[str] | None, on_unknown: OnUnknown
    ) -> list[NDArray[np.bool_]]:
        for partition in snapshot.partitions:
            partition.check()
        return select(snapshot.partitions, snapshot.manifest.columns, filter_, ids, on_unknown)


def _check_positive(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}; expected 1 or more")
