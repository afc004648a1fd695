"""One shard of an index: some partitions of one version, searched together with the other shards.

The steps of `search` are separate methods here: each shard finds candidates, the gateway selects among those of all
shards, and the shards score the selected documents. Hits therefore do not depend on the number of shards.

Ordinals of documents count over all partitions of the version, those of other shards included. Shapes: M documents.

Every step raises `TimeoutError` once its deadline has passed (`deadline`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.format.columns import Columns
from raycol.index.format.manifest import Manifest, PartitionInfo, read_manifest
from raycol.index.format.partition import Partition
from raycol.index.search.candidates import CandidateGenerator, Candidates, find_candidates, rank
from raycol.index.search.deadline import check_deadline
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.pipeline import Hit, Rescored, finalists, near_scorer, top_with_ties
from raycol.index.search.plan import SearchPlan, Size
from raycol.index.search.probes import find_probes
from raycol.index.search.query import Probes, Query
from raycol.index.search.scoring import Match, Scorer, exact_scores
from raycol.index.search.selection import select
from raycol.index.searcher import Searcher
from raycol.storage import open_store

# Document sets in the cache: the steps of one search use the same one.
_CACHED_DOCUMENT_SETS = 16


class ShardScores(NamedTuple):
    """Scores of the requested documents, near ones and exact ones, and id and metadata of the best ones, by ordinal.

    Both are float32 [M], and `is_exact_M`, bool, says which documents have an exact score: those that may be among the
    `finalists` of all shards. Only metadata in the row cache is included: reading it takes longer than scoring, and
    most of these documents are not among the best of all shards.
    """

    near_M: NDArray[np.float32]
    exact_M: NDArray[np.float32]
    is_exact_M: NDArray[np.bool_]
    documents: dict[int, tuple[str, dict[str, Any]]]


class ShardCandidates(NamedTuple):
    """Candidates of a shard, the ordinals of those that it has scored in the same step, and their scores."""

    candidates: Candidates
    scored_M: NDArray[np.int64]
    scores: ShardScores


class Selection(NamedTuple):
    """Restriction of a search by a filter and by ids; None means no restriction."""

    filter: str | None = None
    ids: tuple[str, ...] | None = None


def assign_partitions(partitions: Sequence[PartitionInfo], shards: int) -> list[list[str]]:
    """Assign partitions to shards, balanced by live tokens: largest first, each to the least loaded shard."""
    loads = [(0, shard) for shard in range(shards)]
    assigned: list[list[str]] = [[] for _ in range(shards)]
    for partition in sorted(partitions, key=lambda partition: (-partition.live_tokens, partition.name)):
        load, shard = heapq.heappop(loads)
        assigned[shard].append(partition.name)
        heapq.heappush(loads, (load + partition.live_tokens, shard))
    return assigned


def whole_size(manifest: Manifest) -> Size:
    """Return the size of a whole version, without a restriction."""
    documents = sum(info.documents for info in manifest.partitions)
    return Size(documents, manifest.documents, sum(info.tokens for info in manifest.partitions), restricted=False)


class IndexShard:
    """Shard number `shard` of `shards` of one version of an index, open for search.

    `scorer` and `generator` are those of `Searcher`; all shards have the same.

    Raises:
        InputError: no index at `uri`, or no such version.
        IndexCorruptError: files do not match the manifest.
    """

    def __init__(
        self,
        uri: str | Path,
        version: int,
        shard: int,
        shards: int,
        *,
        scorer: Scorer | None = None,
        generator: CandidateGenerator | None = None,
    ) -> None:
        manifest = read_manifest(open_store(uri), version)
        names = set(assign_partitions(manifest.partitions, shards)[shard])
        own = [info.name for info in manifest.partitions if info.name in names]
        self.index = Searcher(uri, version, partitions=own, scorer=scorer, generator=generator)
        self.manifest = manifest
        starts = np.cumsum([0, *(info.documents for info in manifest.partitions)])
        # First ordinal of each partition of this shard.
        self._starts = starts[:-1][[info.name in names for info in manifest.partitions]]
        self._document_set = lru_cache(_CACHED_DOCUMENT_SETS)(
            partial(_select, self.index.partitions, manifest.columns)
        )

    def count(self, selection: Selection) -> int:
        """Return the number of documents of this shard that match.

        Raises:
            InputError: an invalid filter.
        """
        return self._document_set(selection).n_allowed

    def candidates(
        self,
        queries: Sequence[NDArray[np.float32]],
        plans: Sequence[SearchPlan],
        selection: Selection,
        k: int,
        n_described: int,
        limits: Sequence[int],
        n_prescored: Sequence[int],
        probes: Sequence[Probes | None],
    ) -> list[ShardCandidates]:
        """Return this shard's candidates for each query.

        Args:
            queries: float32 [n_tokens, dim] each.
            plans: one per query, made for the whole index.
            selection: the restriction of the search.
            k: hits of the search.
            n_described: return id and metadata of at most this many of the best documents, by exact score.
            limits: for each query, the most candidates by estimate.
            n_prescored: for each query, the number of its best candidates to score in this step.
            probes: for each query, its probes (`find_probes`), or None to find them here.
        """
        document_set = self._document_set(selection)

        def find(i: int) -> ShardCandidates:
            check_deadline()
            query = Query.prepare(queries[i], probes[i])
            local = find_candidates(self.index.generator, query, document_set, plans[i], limits[i])
            prescored_M = np.sort(rank(local)[: n_prescored[i]])
            scores = self._scores(query, plans[i], document_set, prescored_M, k, n_described)
            candidates = local._replace(ordinals_M=self._to_global(document_set, local.ordinals_M))
            return ShardCandidates(candidates, self._to_global(document_set, prescored_M), scores)

        return [find(i) for i in range(len(queries))]

    def score(
        self,
        queries: Sequence[NDArray[np.float32]],
        plans: Sequence[SearchPlan],
        ordinals: Sequence[NDArray[np.int64]],
        k: int,
        n_described: int,
    ) -> list[ShardScores]:
        """Score documents of this shard: one array of ascending ordinals per query; the rest as in `candidates`."""
        document_set = self._document_set(Selection())

        def score(i: int) -> ShardScores:
            check_deadline()
            local_M = self._to_local(document_set, ordinals[i])
            return self._scores(Query.prepare(queries[i]), plans[i], document_set, local_M, k, n_described)

        return [score(i) for i in range(len(queries))]

    def describe(self, ordinals_M: NDArray[np.int64]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Return id and metadata of documents of this shard, by ordinal; `ordinals_M` is ascending."""
        document_set = self._document_set(Selection())
        return self._describe(document_set, self._to_local(document_set, ordinals_M))

    def documents(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the metadata of the documents that are in this shard, by id."""
        held = [id_ for id_ in ids if id_ in self.index]
        return dict(zip(held, self.index.metadata(held), strict=True))

    def rerank(self, queries: Sequence[NDArray[np.float32]], ids: Sequence[Sequence[str]]) -> list[list[Hit]]:
        """Return the exact scores of the documents that are in this shard, best first."""
        return self.index.rerank(queries, ids, on_unknown="ignore", threads=1)

    def explain(self, query_QD: NDArray[np.float32], id_: str) -> list[Match] | None:
        """Return the match of each query token in a document; None if the document is not in this shard."""
        return self.index.explain(query_QD, id_) if id_ in self.index else None

    def warm(self) -> None:
        """Verify all files and compile the kernels, so that the first request need not."""
        query_QD = np.ones((1, self.manifest.dim), dtype=np.float32) / np.sqrt(self.manifest.dim)
        self.index.search([query_QD], k=1, threads=1)
        self.index.exact([query_QD], k=1, threads=1)
        plan = SearchPlan(n_rescore=1, n_candidates=1, n_probe=1, exact=False)
        probes = find_probes(Query.prepare(query_QD), self.index.codebook, plan.n_probe)
        self.candidates([query_QD], [plan], Selection(), 1, 1, [1], [1], [probes])

    def _scores(
        self,
        query: Query,
        plan: SearchPlan,
        document_set: DocumentSet,
        local_M: NDArray[np.int64],
        k: int,
        n_described: int,
    ) -> ShardScores:
        if not len(local_M):
            none_M = np.empty(0, dtype=np.float32)
            return ShardScores(none_M, none_M, none_M.astype(bool), {})
        scorer = self.index.scorer
        exact = partial(exact_scores, query, document_set, scorer)
        with near_scorer(query, document_set, plan, scorer) as near:
            near_M = near(local_M) if near else exact(local_M)
        exact_M, is_exact_M = near_M.copy(), np.full(len(local_M), near is None)
        scored = Rescored(local_M, near_M)
        if near:
            chosen_M = finalists(scored, k).ordinals_M
            scored = Rescored(chosen_M, exact(chosen_M))
            places_M = np.searchsorted(local_M, chosen_M)
            exact_M[places_M], is_exact_M[places_M] = scored.scores_M, True
        best_M = top_with_ties(scored, n_described).ordinals_M if n_described else local_M[:0]
        masks = [partition.rows_are_cached(positions) for partition, positions in document_set.split(best_M)]
        cached_M = best_M[np.concatenate(masks)] if masks else best_M
        return ShardScores(near_M, exact_M, is_exact_M, self._describe(document_set, cached_M))

    def _describe(
        self, document_set: DocumentSet, local_M: NDArray[np.int64]
    ) -> dict[int, tuple[str, dict[str, Any]]]:
        rows = [
            (id_, row)
            for partition, positions in document_set.split(local_M)
            for id_, row in zip(partition.ids.take(positions), partition.rows(positions), strict=True)
        ]
        return dict(zip(self._to_global(document_set, local_M).tolist(), rows, strict=True))

    def _to_global(self, document_set: DocumentSet, local_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert ordinals within this shard to ordinals over all partitions."""
        partition_M = np.searchsorted(document_set.starts, local_M, side="right") - 1
        return local_M - document_set.starts[partition_M] + self._starts[partition_M] if len(local_M) else local_M

    def _to_local(self, document_set: DocumentSet, ordinals_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert ascending ordinals over all partitions to ordinals within this shard."""
        if not len(ordinals_M):
            return ordinals_M
        partition_M = np.searchsorted(self._starts, ordinals_M, side="right") - 1
        local_M: NDArray[np.int64] = ordinals_M - self._starts[partition_M] + document_set.starts[partition_M]
        if partition_M.min() < 0 or (local_M >= document_set.starts[partition_M + 1]).any():
            raise InputError("a requested document is not in this shard")
        return local_M


def _select(partitions: Sequence[Partition], columns: Columns, selection: Selection) -> DocumentSet:
    return DocumentSet.of(partitions, select(partitions, columns, selection.filter, selection.ids))
