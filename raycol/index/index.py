"""`Index`: create, open, search, change and look after an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.format.document import MAX_QUERY_TOKENS, Document, check_embeddings
from raycol.index.format.manifest import Manifest, ModelInfo, versions
from raycol.index.format.partition import Partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.effort import Effort, SearchSettings, resolve
from raycol.index.search.pipeline import Answer, Hit, Scorer, cpu_scorer, search, search_exact
from raycol.index.search.selection import OnUnknown, check_ids, check_on_unknown, locate, select
from raycol.index.search.threads import check_threads, map_threads
from raycol.index.search.validation import check_positive_int
from raycol.index.write.changes import Change, add_documents, check_writable, delete_documents, store_settings
from raycol.index.write.compact import compact
from raycol.index.write.create import PARTITION_TOKENS, create
from raycol.index.write.tune import TuneResult, cheapest_settings
from raycol.index.write.vacuum import VacuumResult, vacuum
from raycol.index.write.verify import verify_index
from raycol.storage import open_store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Match:
    """The document token that a query token matched, by their positions, and the product of the two."""

    query_token: int
    document_token: int
    score: float


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
        self._scorers: dict[str, Scorer] = {"cpu": cpu_scorer(snapshot.codebook)}

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
        return cls(Snapshot.open_version(open_store(uri), version, partitions, trusted=trust))

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
        effort: Effort = "default",
        n_probe: int | None = None,
        n_rescore: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """The best `k` documents for each query, best first, equal scores by id.

        The same queries give the same hits and scores whatever the threads and the queries beside them. Of more than
        `n_rescore` equal documents, those added first are scored.

        Args:
            queries: one float array [n_tokens, dim] a query (an array [queries, tokens, dim] is one too).
            k: hits a query; fewer where fewer documents may be found.
            filter: a SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020" (docs/filters.md).
            ids: only these documents; none of them gives no hits.
            on_unknown: `refuse` raises where one of `ids` is not in the index.
            effort: how hard to look, fast, default or thorough, at least 4 k documents scored exactly; the default is
                what `tune` has stored, if it has.
            n_probe: centroids whose lists each query token visits, in place of the effort's.
            n_rescore: documents scored exactly, in place of the effort's; k at least. More are, up to 16 times as
                many, while hits come from among the last of them.
            threads: None takes one for one query and all cores for more.
            device: where exact scores are computed, `cpu` or a device of torch's such as `cuda` (needs raycol[gpu]).

        Which documents are scored exactly is estimated on the footing that tokens have one length, as every
        late-interaction encoder makes them; `exact` scores tokens of any length.

        Raises:
            InputError: a query with no tokens or over 1,024, of another dimension, with NaN; k or a setting out of
                range; an unusable filter.
            IndexCorruptError: a partition that is damaged. There are never silently fewer hits.
        """
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        snapshot = self._snapshot
        settings = resolve(
            effort, snapshot.manifest.tuned, snapshot.codebook.n_centroids, k, n_probe=n_probe, n_rescore=n_rescore
        )
        checked = self._check_queries(queries)
        score = self._scorer(device)
        scope = _scope(snapshot, filter, ids, on_unknown)

        def search_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search(query_QD, snapshot.codebook, scope, k=k, settings=settings, score=score).hits

        return map_threads(search_one, checked, n_threads)

    def exact(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        on_unknown: OnUnknown = "ignore",
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """The best `k` documents for each query over every stored token: the reference for `search`."""
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        checked = self._check_queries(queries)
        score = self._scorer(device)
        scope = _scope(self._snapshot, filter, ids, on_unknown)

        def exact_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search_exact(query_QD, scope, k=k, score=score).hits

        return map_threads(exact_one, checked, n_threads)

    def rerank(
        self,
        queries: Sequence[Any],
        ids: Iterable[Iterable[str]],
        *,
        on_unknown: OnUnknown = "refuse",
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """The exact scores of given documents, such as a lexical engine's, best first.

        Args:
            queries: as for `search`.
            ids: for each query the documents to score.
            on_unknown: `refuse` raises where one of `ids` is not in the index, `ignore` leaves it out.
            threads, device: as for `search`.

        Raises:
            InputError: an unusable query, an unknown id, or not one list of ids a query.
        """
        snapshot, n_threads = self._snapshot, check_threads(threads)
        checked = self._check_queries(queries)
        lists = [check_ids(list_) for list_ in _iterable("ids", ids)]
        if len(lists) != len(checked):
            raise InputError(f"{len(checked)} queries and {len(lists)} lists of ids; expected one list a query")
        check_on_unknown(on_unknown)
        score = self._scorer(device)

        def rerank_one(pair: tuple[NDArray[np.float32], list[str]]) -> list[Hit]:
            query_QD, chosen = pair
            scope = _scope(snapshot, None, chosen, on_unknown)
            return search_exact(query_QD, scope, k=max(1, scope.n_allowed), score=score).hits

        return map_threads(rerank_one, list(zip(checked, lists, strict=True)), n_threads)

    def explain(self, query: Any, id: str) -> list[Match]:  # noqa: A002
        """For each query token the document's token that matches it best, the first of equals.

        Their scores add up to the document's score.
        """
        (query_QD,) = self._check_queries([query])
        # Not by BLAS, to which equal tokens are not always equal.
        scores_QT = np.einsum("qd,td->qt", query_QD, self.reconstruct(id))
        return [Match(q, int(scores_T.argmax()), float(scores_T.max())) for q, scores_T in enumerate(scores_QT)]

    def tune(self, queries: Sequence[Any], target_recall: float = 0.95, *, k: int = 10) -> TuneResult:
        """Find the cheapest settings that find a share of the true best `k`, and store them, in one new version.

        From then on they are the default effort's. The truth is `exact`, so this takes about as long as `exact` on
        the same queries; a few hundred that are like those to come are enough.

        Args:
            queries: as for `search`.
            target_recall: above 0, at most 1.
            k: hits a query.

        Raises:
            InputError: unusable queries, a target out of range, or one that no settings reach; nothing is stored.
            ConflictError: another writer committed first.
        """
        k = check_positive_int("k", k)
        if not isinstance(target_recall, Real) or not 0 < target_recall <= 1:
            raise InputError(f"target_recall is {target_recall!r:.60}; expected more than 0, at most 1")
        checked = self._check_queries(queries)
        check_writable(self._snapshot)
        manifest = self.manifest
        if not checked or not manifest.documents:
            raise InputError(f"{self.uri}: nothing to tune on; expected at least one query and one document")
        scope, codebook, score = _scope(self._snapshot, None, None, "ignore"), self.codebook, self._scorer("cpu")

        def search_all(settings: SearchSettings) -> list[Answer]:
            def search_one(query_QD: NDArray[np.float32]) -> Answer:
                return search(query_QD, codebook, scope, k=k, settings=settings, score=score)

            return map_threads(search_one, checked, check_threads(None))

        settings, recall = cheapest_settings(
            search_all,
            self.exact(checked, k),
            target_recall=target_recall,
            k=k,
            sizes={
                "n_centroids": manifest.codebook.n_centroids,
                "n_tokens": manifest.tokens,
                "n_documents": manifest.documents,
                "query_tokens": sum(map(len, checked)) / len(checked),
            },
        )
        self._snapshot = store_settings(self._snapshot, settings)
        return TuneResult(settings, recall, self.version)

    def reconstruct(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """A document's embeddings as stored, float32 [n_tokens, dim]."""
        snapshot = self._snapshot
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, [id], "refuse"), strict=True):
            if len(positions):
                partition.check()
                return snapshot.codebook.decode(partition.tokens(int(positions[0])))
        raise AssertionError("locate refuses what it does not find")

    def metadata(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """The metadata of documents, in the order of `ids`."""
        snapshot, ids = self._snapshot, list(_iterable("ids", ids))
        found: dict[str, dict[str, Any]] = {}
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, ids, "refuse"), strict=True):
            if len(positions):
                rows = partition.rows(positions)
                found |= dict(zip(partition.ids.take(positions), rows, strict=True))
        return [found[id_] for id_ in ids]

    def append(self, documents: Iterable[Document]) -> Change:
        """Add documents, in one new version.

        They are quantised with the index's codebook (`stats().drift` says whether it still suits them).

        Raises:
            InputError: an unusable document, one that comes twice, or one that the index has already; it is named,
                and nothing is written.
            ConflictError: another writer committed first; nothing is changed. Open the index again and repeat.
            RaycolError: it cannot be written; the version before stands, unless the disk failed after the commit
                itself: open the index again to see.
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
        if target_tokens is None:
            target_tokens = self.manifest.partition_tokens
        self._snapshot = compact(self._snapshot, target_tokens)
        return self.version

    def vacuum(self, keep: int = 2, *, abandoned: bool = False) -> VacuumResult:
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

    def _check_queries(self, queries: Sequence[Any]) -> list[NDArray[np.float32]]:
        checked = []
        for number, query in enumerate(_iterable("queries", queries)):
            query_QD = check_embeddings(query, self.manifest.dim, f"query {number}")
            if len(query_QD) > MAX_QUERY_TOKENS:
                raise InputError(f"query {number} has {len(query_QD)} tokens; expected at most {MAX_QUERY_TOKENS}")
            checked.append(query_QD)
        return checked

    def _scorer(self, device: str) -> Scorer:
        """What computes exact scores; an index's codebook never changes."""
        if not isinstance(device, str):
            raise InputError(f"device is {device!r:.60}; expected cpu, or the name of a device of torch's")
        if device not in self._scorers:
            from raycol.index.search.device import DeviceScorer

            self._scorers[device] = DeviceScorer(self.codebook, device)
        return self._scorers[device]


def _scope(snapshot: Snapshot, filter_: str | None, ids: Iterable[str] | None, on_unknown: OnUnknown) -> DocumentSet:
    masks = select(snapshot.partitions, snapshot.manifest.columns, filter_, ids, on_unknown)
    return DocumentSet.of(snapshot.partitions, masks)


def _iterable(name: str, value: Iterable[T]) -> Iterable[T]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r:.60}; expected a list")
    return value
