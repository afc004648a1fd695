"""`Index`: the facade for creating, searching, changing and maintaining an index."""

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
    """The best-matching document token of one query token: positions of both, and their dot product."""

    query_token: int
    document_token: int
    score: float


@dataclass(frozen=True)
class IndexStats:
    """Sizes, counts and codebook drift of an index.

    Args:
        version: the open version.
        versions: all existing versions, ascending.
        documents, tokens: counts without deleted documents.
        deleted_documents, deleted_tokens: counts that `compact` would remove.
        partitions, dim, bits, n_centroids: number of partitions, and the codebook's shape.
        bytes: size of all files of this version, manifest included.
        files: bytes by file name, summed over partitions.
        drift: mean quantisation error of the index's tokens over that of the tokens held out of codebook training;
            1 means that the codebook fits as well as when it was trained.
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
        """Size of the index in bytes divided by its tokens; NaN if it has none."""
        return self.bytes / self.tokens if self.tokens else float("nan")


class Index:
    """An index at one version; get one from `Index.create` or `Index.open`.

    An open index is a snapshot: commits of other processes do not affect it. A change made through this object commits
    a new version and moves the object to it.
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
        """Build an index: train the codebook on a seeded sample, then quantise all documents.

        Reads `documents` once and spools them to disk, so that memory stays bounded and a bad document fails the
        build before anything is quantised.

        Args:
            uri: a local path or a pyarrow.fs URI (`s3://bucket/prefix`) without an index.
            documents: any iterable, generators included.
            bits: bits per dimension of the residual: 1, 2, 4 or 8.
            seed: seeds the sample and k-means; the same documents and seed give the same bytes.
            n_centroids: size of the codebook; None uses PLAID's 2^floor(log2(16 sqrt(tokens))).
            partition_tokens: close a partition when it reaches this number of tokens.
            pool_factor: pool tokens hierarchically, to about 1 / pool_factor of them; also applied to documents added
                later.
            columns: types of the metadata columns by name (string, int64, double, bool, date, timestamp); None infers
                them from the values. Documents added later may use only these columns.
            model: the encoder of the embeddings, recorded in the manifest.

        Raises:
            InputError: no documents, an invalid document (named), or `uri` already holds an index. No files remain.
            ConflictError: another process created an index at `uri` meanwhile.
            RaycolError: writing failed (disk full, no permission). No index remains.
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

        Checks file lengths and array headers. The first search of a partition compares the checksums of all its
        files, which takes about as long as reading them.

        Args:
            uri: local path or URI of the index.
            version: the version to open; None opens the newest.
            partitions: names of the partitions to open, for a shard; None opens all.
            trust: skip checksums before the first search, for repeated short runs over local files that `verify` has
                passed. Offsets and ordinals are bounds-checked nevertheless.

        Raises:
            InputError: no index, version or partition of that name.
            IndexCorruptError: a file does not match the manifest.
        """
        return cls(Snapshot.open_version(open_store(uri), version, partitions, trusted=trust))

    @property
    def uri(self) -> str:
        """Local path or URI of the index."""
        return self._snapshot.store.uri

    @property
    def manifest(self) -> Manifest:
        """Manifest of the open version."""
        return self._snapshot.manifest

    @property
    def version(self) -> int:
        """Number of the open version."""
        return self._snapshot.manifest.version

    @property
    def codebook(self) -> Codebook:
        """Codebook of the index; all versions share it."""
        return self._snapshot.codebook

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Open partitions, in the manifest's order."""
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
        """Return the top `k` documents of each query, best first, ties by id.

        Hits and scores of a query depend neither on the number of threads nor on the other queries. If more than
        `n_rescore` candidates tie, those added first are rescored.

        Args:
            queries: one float array [n_tokens, dim] per query, or one array [n_queries, n_tokens, dim].
            k: hits per query; fewer are returned if fewer documents qualify.
            filter: a SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020" (docs/filters.md).
            ids: search only these documents; an empty list returns no hits.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
            effort: fast, default or thorough: presets of `n_probe` and `n_rescore`, rescoring at least 4 k documents.
                `default` uses the settings that `tune` stored, if any.
            n_probe: inverted lists to visit per query token; overrides `effort`.
            n_rescore: documents to score exactly, at least k; overrides `effort`. Rescoring continues in rounds, up to
                16 x n_rescore documents, while hits come from the end of the ranking.
            threads: None uses one thread for a single query, and all cores for several.
            device: where exact scores are computed: `cpu`, or a torch device such as `cuda` (needs raycol[gpu]).

        Candidates are ranked on the assumption that all tokens have the same norm, as those of late-interaction
        encoders do; `exact` handles tokens of any norm.

        Raises:
            InputError: a query with no tokens, more than 1,024 tokens, NaN or another dimension; `k` or a setting out
                of range; an invalid filter.
            IndexCorruptError: a damaged partition; search never returns partial results.
        """
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        snapshot = self._snapshot
        settings = resolve(
            effort, snapshot.manifest.tuned, snapshot.codebook.n_centroids, k, n_probe=n_probe, n_rescore=n_rescore
        )
        checked = self._check_queries(queries)
        score = self._scorer(device)
        document_set = _document_set(snapshot, filter, ids, on_unknown)

        def search_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search(query_QD, snapshot.codebook, document_set, k=k, settings=settings, score=score).hits

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
        """Return the top `k` documents of each query by MaxSim over all stored tokens: the reference for `search`."""
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        checked = self._check_queries(queries)
        score = self._scorer(device)
        document_set = _document_set(self._snapshot, filter, ids, on_unknown)

        def exact_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search_exact(query_QD, document_set, k=k, score=score).hits

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
        """Score the given documents exactly, such as a lexical engine's candidates; best first.

        Args:
            queries: as for `search`.
            ids: for each query, the documents to score.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
            threads, device: as for `search`.

        Raises:
            InputError: an invalid query, an unknown id, or a number of lists other than the number of queries.
        """
        snapshot, n_threads = self._snapshot, check_threads(threads)
        checked = self._check_queries(queries)
        ids_by_query = [check_ids(query_ids) for query_ids in _iterable("ids", ids)]
        if len(ids_by_query) != len(checked):
            raise InputError(
                f"{len(checked)} queries and {len(ids_by_query)} lists of ids; expected one list per query"
            )
        check_on_unknown(on_unknown)
        score = self._scorer(device)

        def rerank_one(pair: tuple[NDArray[np.float32], list[str]]) -> list[Hit]:
            query_QD, query_ids = pair
            document_set = _document_set(snapshot, None, query_ids, on_unknown)
            return search_exact(query_QD, document_set, k=max(1, document_set.n_allowed), score=score).hits

        return map_threads(rerank_one, list(zip(checked, ids_by_query, strict=True)), n_threads)

    def explain(self, query: Any, id: str) -> list[Match]:  # noqa: A002
        """Return the best-matching document token of each query token, the first one on ties.

        The scores add up to the document's score.
        """
        (query_QD,) = self._check_queries([query])
        # einsum, not BLAS: BLAS may score equal tokens differently, which would break ties at random.
        scores_QT = np.einsum("qd,td->qt", query_QD, self.reconstruct(id))
        return [Match(q, int(scores_T.argmax()), float(scores_T.max())) for q, scores_T in enumerate(scores_QT)]

    def tune(self, queries: Sequence[Any], target_recall: float = 0.95, *, k: int = 10) -> TuneResult:
        """Find the cheapest settings that reach a target recall@k, and store them in a new version.

        The stored settings become those of the default effort. Recall is measured against `exact`, which also takes
        most of the time; a few hundred representative queries are enough.

        Args:
            queries: as for `search`.
            target_recall: above 0, at most 1.
            k: hits per query.

        Raises:
            InputError: invalid queries, a target out of range, or one that no settings reach; nothing is stored.
            ConflictError: another writer committed first; nothing is stored.
        """
        k = check_positive_int("k", k)
        if not isinstance(target_recall, Real) or not 0 < target_recall <= 1:
            raise InputError(f"target_recall is {target_recall!r:.60}; expected above 0 and at most 1")
        checked = self._check_queries(queries)
        check_writable(self._snapshot)
        manifest = self.manifest
        if not checked or not manifest.documents:
            raise InputError(f"{self.uri}: nothing to tune on; expected at least one query and one document")
        document_set = _document_set(self._snapshot, None, None, "ignore")
        codebook, score = self.codebook, self._scorer("cpu")

        def search_all(settings: SearchSettings) -> list[Answer]:
            def search_one(query_QD: NDArray[np.float32]) -> Answer:
                return search(query_QD, codebook, document_set, k=k, settings=settings, score=score)

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
        """Return a document's embeddings, decoded from the index: float32 [n_tokens, dim]."""
        snapshot = self._snapshot
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, [id], "refuse"), strict=True):
            if len(positions):
                partition.check()
                return snapshot.codebook.decode(partition.tokens(int(positions[0])))
        raise AssertionError("unreachable: locate raises on an unknown id")

    def metadata(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return the metadata of documents, in the order of `ids`."""
        snapshot, ids = self._snapshot, list(_iterable("ids", ids))
        metadata_by_id: dict[str, dict[str, Any]] = {}
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, ids, "refuse"), strict=True):
            if len(positions):
                rows = partition.rows(positions)
                metadata_by_id |= dict(zip(partition.ids.take(positions), rows, strict=True))
        return [metadata_by_id[id_] for id_ in ids]

    def append(self, documents: Iterable[Document]) -> Change:
        """Add documents in one new version.

        Quantises them with the existing codebook; `stats().drift` shows whether it still fits.

        Raises:
            InputError: an invalid document, or a duplicate within `documents` or with the index; the message names it,
                and nothing is written.
            ConflictError: another writer committed first; nothing is changed. Open the index again and repeat.
            RaycolError: writing failed. The index keeps its version, unless the disk failed after the commit itself:
                open the index again to check.
        """
        self._snapshot, change = add_documents(self._snapshot, documents, replace=False)
        return change

    def upsert(self, documents: Iterable[Document]) -> Change:
        """Add documents, replacing existing ones of the same id, in one new version. Raises as `append` does."""
        self._snapshot, change = add_documents(self._snapshot, documents, replace=True)
        return change

    def delete(self, ids: Iterable[str], *, on_unknown: OnUnknown = "ignore") -> Change:
        """Delete documents in one new version. Their bytes remain until `compact`.

        Args:
            ids: ids of the documents.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
        """
        self._snapshot, change = delete_documents(self._snapshot, ids, on_unknown)
        return change

    def compact(self, target_tokens: int | None = None) -> int:
        """Merge small partitions and drop deleted documents, in one new version; return its number.

        Args:
            target_tokens: tokens per partition; None uses the index's `partition_tokens`. Partitions of less than half
                this size, and those with deleted documents, are rewritten.
        """
        if target_tokens is None:
            target_tokens = self.manifest.partition_tokens
        self._snapshot = compact(self._snapshot, target_tokens)
        return self.version

    def vacuum(self, keep: int = 2, *, abandoned: bool = False) -> VacuumResult:
        """Remove all versions but the newest `keep`, and the files that only they use.

        Args:
            keep: number of versions to keep, at least 1.
            abandoned: also remove files that unfinished writers left since the current version; safe only while no
                writer is running.
        """
        return vacuum(self._snapshot.store, keep, abandoned=abandoned)

    def verify(self) -> list[str]:
        """Read every byte of every version; return one line per damaged, missing or unexpected file."""
        return verify_index(self._snapshot.store)

    def stats(self) -> IndexStats:
        """Return counts, sizes and codebook drift of the open version."""
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
        for i, query in enumerate(_iterable("queries", queries)):
            query_QD = check_embeddings(query, self.manifest.dim, f"query {i}")
            if len(query_QD) > MAX_QUERY_TOKENS:
                raise InputError(f"query {i} has {len(query_QD)} tokens; expected at most {MAX_QUERY_TOKENS}")
            checked.append(query_QD)
        return checked

    def _scorer(self, device: str) -> Scorer:
        """Return the scorer of a device, made on first use: the codebook never changes."""
        if not isinstance(device, str):
            raise InputError(f"device is {device!r:.60}; expected cpu or a torch device such as cuda")
        if device not in self._scorers:
            from raycol.index.search.device import DeviceScorer

            self._scorers[device] = DeviceScorer(self.codebook, device)
        return self._scorers[device]


def _document_set(
    snapshot: Snapshot, filter_: str | None, ids: Iterable[str] | None, on_unknown: OnUnknown
) -> DocumentSet:
    masks = select(snapshot.partitions, snapshot.manifest.columns, filter_, ids, on_unknown)
    return DocumentSet.of(snapshot.partitions, masks)


def _iterable(name: str, value: Iterable[T]) -> Iterable[T]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r:.60}; expected a list")
    return value
