"""A shard: some partitions of one version of an index, searched together with the others wherever these are.

What `search` does over the partitions of one process is here in steps: each shard finds candidates, whoever gathers
them chooses among all, and the shards score those exactly. So hits are the same whatever the number of shards.

Documents are numbered over all partitions of the version, those of other shards too. Shapes: M documents.

Every step ends with `TimeoutError` where `patience` says that its time is over.
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
from raycol.index.index import Index, Match
from raycol.index.search.deadline import check_time
from raycol.index.search.document_set import Scope
from raycol.index.search.pipeline import (
    Candidates,
    Hit,
    Rescored,
    SearchPlan,
    Size,
    best,
    cpu_scorer,
    exact_scores,
    find_candidates,
    rank,
)
from raycol.index.search.probes import Probes, find_probes
from raycol.index.search.query import Query
from raycol.index.search.selection import select
from raycol.storage import open_store

# Scopes of filters and ids that are kept: the steps of one search need the same one again.
_SCOPES = 16


class Found(NamedTuple):
    """Scores of the documents asked for, float32 [M], and what is kept of the best of them, as far as it is at hand.

    To read it takes longer than to score, and most of these are not among the best of all shards.
    """

    scores_M: NDArray[np.float32]
    documents: dict[int, tuple[str, dict[str, Any]]]


class ShardCandidates(NamedTuple):
    """A shard's candidates, and those of them that it has scored exactly ahead of being asked."""

    candidates: Candidates
    scored_M: NDArray[np.int64]
    found: Found


class Selection(NamedTuple):
    """Which documents may be found: by a filter, by ids, or all."""

    filter: str | None = None
    ids: tuple[str, ...] | None = None


def assign_partitions(partitions: Sequence[PartitionInfo], shards: int) -> list[list[str]]:
    """Spread partitions over shards, evenly by tokens: the largest first, each to the emptiest shard."""
    loads = [(0, shard) for shard in range(shards)]
    chosen: list[list[str]] = [[] for _ in range(shards)]
    for partition in sorted(partitions, key=lambda partition: (-partition.live_tokens, partition.name)):
        load, shard = heapq.heappop(loads)
        chosen[shard].append(partition.name)
        heapq.heappush(loads, (load + partition.live_tokens, shard))
    return chosen


def whole_size(manifest: Manifest) -> Size:
    """How much there is to search without a filter."""
    documents = sum(info.documents for info in manifest.partitions)
    return Size(documents, manifest.documents, sum(info.tokens for info in manifest.partitions), restricted=False)


class IndexShard:
    """The `shard`-th of `shards` shards of an index's version, opened for searching.

    Raises:
        InputError: no index there, or no such version.
        IndexCorruptError: files are not as promised.
    """

    def __init__(self, uri: str | Path, version: int, shard: int, shards: int) -> None:
        manifest = read_manifest(open_store(uri), version)
        names = set(assign_partitions(manifest.partitions, shards)[shard])
        self.index = Index.open(uri, version, partitions=[p.name for p in manifest.partitions if p.name in names])
        self.manifest = manifest
        starts = np.cumsum([0, *(info.documents for info in manifest.partitions)])
        # First number of each partition here, over all partitions of the version.
        self._starts = starts[:-1][[info.name in names for info in manifest.partitions]]
        self._score = cpu_scorer(self.index.codebook)
        self._scope = lru_cache(_SCOPES)(partial(_select, self.index.partitions, manifest.columns))

    def count(self, selection: Selection) -> int:
        """How many documents of this shard may be found.

        Raises:
            InputError: a filter that cannot be used.
        """
        return self._scope(selection).n_allowed

    def candidates(
        self,
        queries: Sequence[NDArray[np.float32]],
        plans: Sequence[SearchPlan],
        selection: Selection,
        k: int,
        limits: Sequence[int],
        ahead: Sequence[int],
        probes: Sequence[Probes | None],
    ) -> list[ShardCandidates]:
        """Candidates of this shard for each query.

        Args:
            queries: float32 [n_tokens, dim] each.
            plans: one a query, made for the whole index.
            selection: which documents may be found.
            k: of how many of the best that are scored to tell what is kept.
            limits: for each query the most candidates by their estimates.
            ahead: for each query how many of the best candidates to score exactly at once.
            probes: for each query what `find_probes` finds for its plan, where that is known.
        """
        scope = self._scope(selection)

        def find(number: int) -> ShardCandidates:
            check_time()
            query, plan = Query.prepare(queries[number]), plans[number]
            found = find_candidates(query, self.index.codebook, scope, plan, limits[number], probes[number])
            ahead_M = np.sort(rank(found)[: ahead[number]])
            scored = self._found(query, scope, ahead_M, k)
            numbers_M = self._outward(scope, found.numbers_M)
            return ShardCandidates(found._replace(numbers_M=numbers_M), self._outward(scope, ahead_M), scored)

        return [find(number) for number in range(len(queries))]

    def score(
        self,
        queries: Sequence[NDArray[np.float32]],
        numbers: Sequence[NDArray[np.int64]],
        k: int,
    ) -> list[Found]:
        """Exact scores of documents of this shard, given by ascending numbers, for each query; `k` as above."""
        scope = self._scope(Selection())

        def score(number: int) -> Found:
            check_time()
            inward_M = self._inward(scope, numbers[number])
            return self._found(Query.prepare(queries[number]), scope, inward_M, k)

        return [score(number) for number in range(len(queries))]

    def describe(self, numbers_M: NDArray[np.int64]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Id and metadata of documents of this shard, given by ascending numbers, by their numbers."""
        return self._describe(self._scope(Selection()), self._inward(self._scope(Selection()), numbers_M))

    def documents(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Metadata of those of the documents that are in this shard."""
        held = [id_ for id_ in ids if id_ in self.index]
        return dict(zip(held, self.index.metadata(held), strict=True))

    def rerank(self, queries: Sequence[NDArray[np.float32]], ids: Sequence[Sequence[str]]) -> list[list[Hit]]:
        """Exact scores of those of the documents that are in this shard, best first."""
        return self.index.rerank(queries, ids, on_unknown="ignore", threads=1)

    def explain(self, query_QD: NDArray[np.float32], id_: str) -> list[Match] | None:
        """What each query token matches in a document; None where the document is not in this shard."""
        return self.index.explain(query_QD, id_) if id_ in self.index else None

    def warm(self) -> None:
        """Check every byte and compile the kernels before the first request rather than in it."""
        query_QD = np.ones((1, self.manifest.dim), dtype=np.float32) / np.sqrt(self.manifest.dim)
        self.index.search([query_QD], k=1, threads=1)
        self.index.exact([query_QD], k=1, threads=1)
        plan = SearchPlan(n_rescore=1, n_candidates=1, n_probe=1, exact=False)
        probes = find_probes(Query.prepare(query_QD), self.index.codebook, plan.n_probe)
        self.candidates([query_QD], [plan], Selection(), 1, [1], [1], [probes])

    def _found(self, query: Query, scope: Scope, numbers_M: NDArray[np.int64], k: int) -> Found:
        scores_M = exact_scores(query, scope, numbers_M, self._score)
        best_M = best(Rescored(numbers_M, scores_M), k).numbers_M if k else numbers_M[:0]
        masks = [partition.rows_are_cached(positions) for partition, positions in scope.split(best_M)]
        at_hand_M = best_M[np.concatenate(masks)] if masks else best_M
        return Found(scores_M, self._describe(scope, at_hand_M))

    def _describe(self, scope: Scope, numbers_M: NDArray[np.int64]) -> dict[int, tuple[str, dict[str, Any]]]:
        rows = [
            (id_, row)
            for partition, positions in scope.split(numbers_M)
            for id_, row in zip(partition.ids.take(positions), partition.rows(positions), strict=True)
        ]
        return dict(zip(self._outward(scope, numbers_M).tolist(), rows, strict=True))

    def _outward(self, scope: Scope, numbers_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers within this shard as numbers over all partitions."""
        places_M = np.searchsorted(scope.starts, numbers_M, side="right") - 1
        return numbers_M - scope.starts[places_M] + self._starts[places_M] if len(numbers_M) else numbers_M

    def _inward(self, scope: Scope, numbers_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers over all partitions, ascending, as numbers within this shard."""
        if not len(numbers_M):
            return numbers_M
        places_M = np.searchsorted(self._starts, numbers_M, side="right") - 1
        inward_M: NDArray[np.int64] = numbers_M - self._starts[places_M] + scope.starts[places_M]
        if places_M.min() < 0 or (inward_M >= scope.starts[places_M + 1]).any():
            raise InputError("a document was asked of a shard that does not hold it")
        return inward_M


def _select(partitions: Sequence[Partition], columns: Columns, selection: Selection) -> Scope:
    return Scope.of(partitions, select(partitions, columns, selection.filter, selection.ids))
