"""`Searcher`: one version of an index, for reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.core.arguments import named_arguments
from raycol.core.shown import Shown
from raycol.core.threads import check_threads, map_threads
from raycol.core.validation import check_positive_int
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.format.document import MAX_QUERY_TOKENS, check_embeddings
from raycol.index.format.manifest import Manifest, versions
from raycol.index.format.partition import FILE, Partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.candidates import CandidateGenerator
from raycol.index.search.device import DeviceScorer
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.effort import Effort, resolve
from raycol.index.search.lists import InvertedLists
from raycol.index.search.pipeline import Hit, search, search_exact
from raycol.index.search.scoring import Match, MaxSim, Scorer
from raycol.index.search.selection import OnUnknown, check_ids, check_on_unknown, locate, select
from raycol.storage import open_store

T = TypeVar("T")

_ENCODE = "Encode the texts first (raycol.load_encoder(model).encode_query(texts)), or use raycol.Retriever"


@dataclass(frozen=True, repr=False)
class IndexStats(Shown):
    """Sizes, counts and codebook drift of an index.

    Args:
        version: the open version.
        versions: all existing versions, ascending.
        documents, tokens: counts without deleted documents.
        deleted_documents, deleted_tokens: counts that `compact` would remove.
        partitions, dim, bits, n_centroids: number of partitions, and the codebook's shape.
        bytes: size of all files of this version, manifest included.
        files: bytes by file name, summed over partitions; of a local index, by section of the partitions' files.
        drift: mean quantisation error of the index's tokens over that of the tokens held out of codebook training;
            1 means that the codebook fits as well as when it was trained.
    """

    _main: ClassVar = ("version", "documents", "tokens", "partitions", "dim", "bits", "bytes", "drift")

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
    files: dict[str, int]
    drift: float

    @property
    def bytes_per_token(self) -> float:
        """Size of the index in bytes divided by its tokens; NaN if it has none."""
        return self.bytes / self.tokens if self.tokens else float("nan")


class Searcher:
    """One version of an index: search, exact, rerank, explain, stats. Commits of any process do not affect it.

    Opening it checks the lengths of files and sections. The first search of a partition compares the checksum of its
    file, which takes about as long as reading them.

    Args:
        uri: local path or URI of the index.
        version: the version to open; None opens the newest.
        partitions: names of the partitions to open, for a shard; None opens all.
        trust: skip checksums before the first search, for repeated short runs over local files that `verify` has
            passed. Offsets and ordinals are bounds-checked nevertheless.
        scorer: scores documents in all methods; by default MaxSim.
        generator: finds the candidates of `search`; by default inverted lists.

    Raises:
        InputError: no index, version or partition of that name.
        IndexCorruptError: a file does not match the manifest.
    """

    def __init__(
        self,
        uri: str | Path,
        version: int | None = None,
        *,
        partitions: Iterable[str] | None = None,
        trust: bool = False,
        scorer: Scorer | None = None,
        generator: CandidateGenerator | None = None,
    ) -> None:
        self._snapshot = Snapshot.open_version(open_store(uri), version, partitions, trusted=trust)
        self.scorer: Scorer = scorer or MaxSim()
        self.generator: CandidateGenerator = generator or InvertedLists()
        self._device_scorer = cache(partial(DeviceScorer, self.codebook))
        # All documents of a snapshot: with many partitions, putting them together takes longer than a search.
        self._all_documents: tuple[Snapshot, DocumentSet] | None = None

    @classmethod
    def open(
        cls,
        uri: str | Path,
        version: int | None = None,
        *,
        partitions: Iterable[str] | None = None,
        trust: bool = False,
        scorer: Scorer | None = None,
        generator: CandidateGenerator | None = None,
    ) -> Self:
        """Open one version of an index, by default the current one: the same as the constructor."""
        return cls(uri, version, partitions=partitions, trust=trust, scorer=scorer, generator=generator)

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

    @named_arguments
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
        with_metadata: bool = False,
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """Return the top `k` documents of each query, best first, ties by id.

        Hits and scores of a query depend neither on the number of threads nor on the other queries. If more than
        `n_rescore` candidates tie, those added first are rescored.

        Args:
            queries: one float array [n_tokens, dim] per query, or one array [n_queries, n_tokens, dim]. Pass a single
                query as `[query]`.
            k: hits per query; fewer are returned if fewer documents qualify.
            filter: a SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020" (docs/filters.md).
            ids: search only these documents; an empty list returns no hits.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
            effort: fast, default or thorough: presets of `n_probe` and `n_rescore`, rescoring at least 4 k documents.
                `default` uses the settings that `tune` stored, if any.
            n_probe: inverted lists to visit per query token; overrides `effort`.
            n_rescore: documents to rescore, at least k; overrides `effort`. Rescoring continues in rounds, up to
                16 x n_rescore documents, while hits come from the end of the ranking. Below 8 query tokens, both
                settings count twice.
            with_metadata: give each hit the `metadata` of its document.
            threads: None uses one thread for a single query, and all cores for several.
            device: where documents are rescored: `cpu`, or a torch device such as `cuda` (needs raycol[gpu]), which is
                experimental.

        The scores of hits are exact. Candidates are ranked on the assumption that all tokens have the same norm, as
        those of late-interaction encoders do; `exact` handles tokens of any norm.

        Raises:
            InputError: a query with no tokens, more than 8,192 tokens, NaN or another dimension; `k` or a setting out
                of range; an invalid filter.
            IndexCorruptError: a damaged partition; search never returns partial results.
        """
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        snapshot = self._snapshot
        settings = resolve(
            effort, snapshot.manifest.tuned, snapshot.codebook.n_centroids, k, n_probe=n_probe, n_rescore=n_rescore
        )
        checked = self._check_queries(queries)
        scorer = self._scorer_on(device)
        document_set = self._document_set(snapshot, filter, ids, on_unknown)

        def search_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search(
                query_QD, document_set, k=k, settings=settings, n_centroids=snapshot.codebook.n_centroids,
                generator=self.generator, scorer=scorer,
            ).hits  # fmt: skip

        results = map_threads(search_one, checked, n_threads)
        return _described(snapshot, results) if with_metadata else results

    @named_arguments
    def exact(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        on_unknown: OnUnknown = "ignore",
        with_metadata: bool = False,
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """Return the top `k` documents of each query by MaxSim over all stored tokens: the reference for `search`."""
        k, n_threads = check_positive_int("k", k), check_threads(threads)
        snapshot = self._snapshot
        checked = self._check_queries(queries)
        scorer = self._scorer_on(device)
        document_set = self._document_set(snapshot, filter, ids, on_unknown)

        def exact_one(query_QD: NDArray[np.float32]) -> list[Hit]:
            return search_exact(query_QD, document_set, k=k, scorer=scorer).hits

        results = map_threads(exact_one, checked, n_threads)
        return _described(snapshot, results) if with_metadata else results

    def rerank(
        self,
        queries: Sequence[Any],
        ids: Iterable[Iterable[str]],
        *,
        on_unknown: OnUnknown = "refuse",
        with_metadata: bool = False,
        threads: int | None = None,
        device: str = "cpu",
    ) -> list[list[Hit]]:
        """Score the given documents exactly, such as a lexical engine's candidates; best first.

        Args:
            queries: as for `search`.
            ids: for each query, the documents to score.
            on_unknown: `refuse` raises if one of `ids` is not in the index, `ignore` skips it.
            with_metadata, threads, device: as for `search`.

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
        scorer = self._scorer_on(device)

        def rerank_one(pair: tuple[NDArray[np.float32], list[str]]) -> list[Hit]:
            query_QD, query_ids = pair
            document_set = document_set_of(snapshot, None, query_ids, on_unknown)
            return search_exact(query_QD, document_set, k=max(1, document_set.n_allowed), scorer=scorer).hits

        results = map_threads(rerank_one, list(zip(checked, ids_by_query, strict=True)), n_threads)
        return _described(snapshot, results) if with_metadata else results

    def explain(self, query: Any, id: str) -> list[Match]:  # noqa: A002
        """Return the best-matching document token of each query token, the first one on ties.

        The scores add up to the document's score.
        """
        (query_QD,) = self._check_queries([query])
        return self.scorer.explain(query_QD, self.reconstruct(id))

    def reconstruct(self, id: str) -> NDArray[np.float32]:  # noqa: A002
        """Return a document's embeddings, decoded from the index: float32 [n_tokens, dim]."""
        snapshot = self._snapshot
        for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, [id], "refuse"), strict=True):
            if len(positions):
                partition.check()
                return partition.embeddings(int(positions[0]))
        raise AssertionError("unreachable: locate raises on an unknown id")

    def metadata(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return the metadata of documents, in the order of `ids`."""
        ids = list(_iterable("ids", ids))
        metadata_by_id = _metadata_by_id(self._snapshot, ids)
        return [metadata_by_id[id_] for id_ in ids]

    def stats(self) -> IndexStats:
        """Return counts, sizes and codebook drift of the open version."""
        snapshot = self._snapshot
        manifest = snapshot.manifest
        files: Counter[str] = Counter()
        for infos in manifest.folders.values():
            files.update({name: info.bytes for name, info in infos.items()})
        if snapshot.store.is_local and len(snapshot.partitions) == len(manifest.partitions):
            sections: Counter[str] = Counter()
            for partition in snapshot.partitions:
                sections.update({name: section.bytes for name, section in partition.sections.items()})
            files["tables"] = files.pop(FILE, 0) - sections.total()  # and what aligns sections
            files.update(sections)
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
        return f"<{type(self).__name__} {self.uri} version {self.version}: {len(self)} documents>"

    def _check_queries(self, queries: Sequence[Any]) -> list[NDArray[np.float32]]:
        if isinstance(queries, str):
            raise InputError(f"queries is {queries!r:.60}; expected a list of token embeddings. {_ENCODE}")
        checked = []
        for i, query in enumerate(_iterable("queries", queries)):
            if isinstance(query, str):
                raise InputError(f"query {i} is the text {query!r:.60}; expected its token embeddings. {_ENCODE}")
            query_QD = check_embeddings(query, self.manifest.dim, f"query {i}")
            if len(query_QD) > MAX_QUERY_TOKENS:
                raise InputError(f"query {i} has {len(query_QD)} tokens; expected at most {MAX_QUERY_TOKENS}")
            checked.append(query_QD)
        return checked

    def _document_set(
        self, snapshot: Snapshot, filter_: str | None, ids: Iterable[str] | None, on_unknown: OnUnknown
    ) -> DocumentSet:
        check_on_unknown(on_unknown)
        if filter_ is not None or ids is not None:
            return document_set_of(snapshot, filter_, ids, on_unknown)
        cached = self._all_documents
        if cached is None or cached[0] is not snapshot:
            cached = self._all_documents = snapshot, document_set_of(snapshot, None, None, on_unknown)
        return cached[1]

    def _scorer_on(self, device: str) -> Scorer:
        """Return the scorer that runs on a device, made on first use: the codebook never changes."""
        if not isinstance(device, str):
            raise InputError(f"device is {device!r:.60}; expected cpu or a torch device such as cuda")
        if device == "cpu":
            return self.scorer
        if type(self.scorer) is not MaxSim:
            raise InputError(f"device is {device!r:.60}, which scores by MaxSim; this scorer is another one: use cpu")
        return self._device_scorer(device)


def document_set_of(
    snapshot: Snapshot, filter_: str | None, ids: Iterable[str] | None, on_unknown: OnUnknown
) -> DocumentSet:
    """The documents that a filter and ids select, without deleted ones. Raises `InputError` as `Searcher.search`."""
    masks = select(snapshot.partitions, snapshot.manifest.columns, filter_, ids, on_unknown)
    return DocumentSet.of(snapshot.partitions, masks)


def _metadata_by_id(snapshot: Snapshot, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the metadata of documents. Raises `InputError` if one is not in the index."""
    metadata_by_id: dict[str, dict[str, Any]] = {}
    for partition, positions in zip(snapshot.partitions, locate(snapshot.partitions, ids, "refuse"), strict=True):
        if len(positions):
            metadata_by_id |= dict(zip(partition.ids.take(positions), partition.rows(positions), strict=True))
    return metadata_by_id


def _described(snapshot: Snapshot, results: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
    """Return the hits with their metadata, each with a dict of its own; reads every document once."""
    metadata_by_id = _metadata_by_id(snapshot, {hit.id for hits in results for hit in hits})
    return [[replace(hit, metadata=dict(metadata_by_id[hit.id])) for hit in hits] for hits in results]


def _iterable(name: str, value: Iterable[T]) -> Iterable[T]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r:.60}; expected a list")
    return value
