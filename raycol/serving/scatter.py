"""Scatter-gather search: candidates from each shard, selection over all of them, their scores, the best k.

A shard that fails or times out is dropped for the rest of the search, and the result counts those that answered.

Shapes: M documents. Documents are identified by their ordinals over all partitions of the version.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.manifest import SearchSettings
from raycol.index.search.candidates import Candidates, rank
from raycol.index.search.pipeline import Rescored, finalists, rescoring, top_with_ties
from raycol.index.search.plan import SearchPlan, Size, plan_search
from raycol.index.search.query import Probes
from raycol.index.shard import Selection, ShardCandidates, ShardScores
from raycol.serving.shard_calls import Shards

Probe = Callable[[Sequence[NDArray[np.float32]], Sequence[SearchPlan]], Awaitable[list[Probes | None]]]

# Assume that one shard holds up to this multiple of its even share of the candidates, and of the documents scored
# eagerly, plus a constant, since small shares vary most.
_CANDIDATES_SHARE = 1.5
_EAGER_SHARE = 1.25
_CANDIDATES_EXTRA = 32
_EAGER_EXTRA = 4

# More bits than an ordinal has; an estimate (at most 255 per query token) fits in the rest of 64.
_ORDINAL_BITS = 40

# A running `rescoring`.
Rescoring = Generator[NDArray[np.int64], NDArray[np.float32], Rescored]

_NO_ORDINALS = np.empty(0, dtype=np.int64)
_NO_SCORES = np.empty(0, dtype=np.int32)


class DocumentHit(NamedTuple):
    """A hit with its document's metadata."""

    id: str
    score: float
    metadata: dict[str, Any]


class ScatterResult(NamedTuple):
    """The hits of each query, the number of shards that answered, and seconds by stage."""

    hits: list[list[DocumentHit]]
    answered: int
    seconds: dict[str, float]


async def search(
    shards: Shards,
    queries: Sequence[NDArray[np.float32]],
    *,
    k: int,
    settings: SearchSettings,
    size: Size,
    n_centroids: int,
    selection: Selection,
    probe: Probe | None = None,
) -> ScatterResult:
    """The best `k` documents for each query over all shards that answer.

    Args:
        shards: all shards of one version.
        queries: float32 [n_tokens, dim] each.
        k: hits per query.
        settings: search effort.
        size: of the whole version, without a filter.
        n_centroids: of the version's codebook.
        selection: filter and ids.
        probe: finds the probes of the queries; without it every shard does.

    Raises:
        InputError: a shard rejected the request.
        TimeoutError: `probe` timed out.
    """
    started = time.perf_counter()
    if selection != Selection():
        counts = await shards.call_all("count", selection)
        n_allowed = sum(counts.values())
        size = size._replace(n_allowed=n_allowed, restricted=n_allowed < size.n_allowed)
    plans = [plan_search(len(query), size, n_centroids, k=k, settings=settings) for query in queries]
    # For one query, metadata that comes with the scores saves the `describe` step; for many, that step is cheaper
    # than metadata of documents that do not become hits.
    n_described = k if len(queries) == 1 else 0
    planned = time.perf_counter()
    probes: Sequence[Probes | None] = [None] * len(queries)
    if probe and any(plan.n_probe for plan in plans):
        try:
            async with asyncio.timeout(shards.step_s()):
                probes = await probe(queries, plans)
        except TimeoutError:
            raise TimeoutError("finding the nearest centroids timed out") from None
    probed = time.perf_counter()
    states = await _find_candidates(shards, queries, plans, probes, selection, k, n_described)
    gathered = time.perf_counter()
    lost_shard = True
    while lost_shard:
        await _score(shards, states, queries, k, n_described)
        n_alive = len(shards.alive)
        await _describe(shards, states)
        lost_shard = len(shards.alive) < n_alive
        for state in states:
            state.advance(shards.alive)
    hits = [state.hits() for state in states]
    done = time.perf_counter()
    seconds = {
        "centroids": probed - planned,
        "candidates": gathered - started - (probed - planned),
        "scores": done - gathered,
    }
    return ScatterResult(hits, len(shards.alive), seconds)


async def _find_candidates(
    shards: Shards,
    queries: Sequence[NDArray[np.float32]],
    plans: Sequence[SearchPlan],
    probes: Sequence[Probes | None],
    selection: Selection,
    k: int,
    n_described: int,
) -> list[_QueryState]:
    """The state of each query with the shards' candidates.

    Each shard first sends somewhat more than its even share; one whose candidates were all selected is called again
    for the full number.
    """
    n_shards = len(shards.alive)
    # Without stage 2, shards send all at once: a second call would repeat their stage 3.
    limits = [
        _share(plan.n_candidates, n_shards, "candidates") if plan.n_probe else plan.n_candidates for plan in plans
    ]
    single = len(queries) == 1 or n_shards == 1
    # With several queries a second call costs little per query, while eager scores that go unused delay all of them.
    eager = [_share(plan.n_rescore, n_shards, "eager") if single or plan.exact else 0 for plan in plans]
    replies = await shards.call_all("candidates", queries, plans, selection, k, n_described, limits, eager, probes)
    states = [
        _QueryState(k, plan, {shard: parts[query] for shard, parts in replies.items()})
        for query, plan in enumerate(plans)
    ]
    again: dict[int, list[int]] = {}
    for query, plan in enumerate(plans):
        if limits[query] < plan.n_candidates:
            for shard in states[query].exhausted_shards(limits[query]):
                again.setdefault(shard, []).append(query)
    replies = await shards.call_each(
        "candidates",
        {
            shard: (
                [queries[query] for query in chosen],
                [plans[query] for query in chosen],
                selection,
                k,
                n_described,
                [plans[query].n_candidates for query in chosen],
                [eager[query] for query in chosen],
                [probes[query] for query in chosen],
            )
            for shard, chosen in again.items()
        },
    )
    for query, state in enumerate(states):
        wider = {shard: parts[again[shard].index(query)] for shard, parts in replies.items() if query in again[shard]}
        if wider:
            state.replace_candidates(wider)
        state.advance(shards.alive)
    return states


async def _score(
    shards: Shards, states: Sequence[_QueryState], queries: Sequence[NDArray[np.float32]], k: int, n_described: int
) -> None:
    """Score the documents that the queries need, until none needs more."""
    while pending := [query for query, state in enumerate(states) if state.needed]:
        needed = {
            shard: [(query, states[query].needed[shard]) for query in pending if shard in states[query].needed]
            for shard in shards.alive
        }
        replies = await shards.call_each(
            "score",
            {
                shard: (
                    [queries[query] for query, _ in pairs],
                    [states[query].scoring_plan for query, _ in pairs],
                    [ordinals_M for _, ordinals_M in pairs],
                    k,
                    n_described,
                )
                for shard, pairs in needed.items()
                if pairs
            },
        )
        for shard, scored in replies.items():
            for (query, ordinals_M), scores in zip(needed[shard], scored, strict=True):
                states[query].add_scores(ordinals_M, scores)
        for state in states:
            state.advance(shards.alive)


async def _describe(shards: Shards, states: Sequence[_QueryState]) -> None:
    """Fetch ids and metadata of the best documents that are still missing."""
    missing_by_shard: dict[int, set[int]] = {}
    for state in states:
        missing = [ordinal for ordinal, _ in state.best if ordinal not in state.documents]
        for ordinal, shard in zip(missing, state.shards_of(missing).tolist(), strict=True):
            missing_by_shard.setdefault(shard, set()).add(ordinal)
    replies = await shards.call_each(
        "describe",
        {shard: (np.array(sorted(ordinals), dtype=np.int64),) for shard, ordinals in missing_by_shard.items()},
    )
    for state in states:
        for documents in replies.values():
            state.documents |= {ordinal: documents[ordinal] for ordinal, _ in state.best if ordinal in documents}


def _share(n: int, shards: int, kind: str) -> int:
    """The number of documents out of `n` to request from each shard."""
    if shards <= 1:
        return n
    factor, extra = {
        "candidates": (_CANDIDATES_SHARE, _CANDIDATES_EXTRA),
        "eager": (_EAGER_SHARE, _EAGER_EXTRA),
    }[kind]
    return min(n, math.ceil(factor * n / shards) + extra)


class _SelectedCandidates(NamedTuple):
    """Candidates by ascending ordinals, int64 [M], their scores, int32 [M], and their shards, int64 [M]."""

    ordinals_M: NDArray[np.int64]
    scores_M: NDArray[np.int32]
    shards_M: NDArray[np.int64]


def _select_candidates(parts: dict[int, ShardCandidates], plan: SearchPlan) -> _SelectedCandidates:
    """The candidates that a search over all partitions would select: the highest estimates, ties by ordinal."""
    candidates = [part.candidates for part in parts.values()]
    ordinals_M = np.concatenate([_NO_ORDINALS, *(each.ordinals_M for each in candidates)])
    scores_M = np.concatenate([_NO_SCORES, *(each.scores_M for each in candidates)])
    shards_M = np.repeat(list(parts), [len(each.ordinals_M) for each in candidates]).astype(np.int64)
    selected_M = np.argsort(ordinals_M)
    if len(ordinals_M) > plan.n_candidates:
        # One integer key, estimate before descending ordinal: `partition` finds the lowest selected key in O(M).
        estimates_M = np.concatenate([each.estimates_M for each in candidates])
        keys_M = (estimates_M.astype(np.int64) << _ORDINAL_BITS) - ordinals_M
        lowest = np.partition(keys_M, -plan.n_candidates)[-plan.n_candidates]
        selected_M = selected_M[keys_M[selected_M] >= lowest]
    return _SelectedCandidates(ordinals_M[selected_M], scores_M[selected_M], shards_M[selected_M])


class _QueryState:
    """The state of one query: its candidates, the scores it needs next from each shard, and its best documents."""

    def __init__(self, k: int, plan: SearchPlan, parts: dict[int, ShardCandidates]) -> None:
        self._k = k
        self.needed: dict[int, NDArray[np.int64]] = {}
        self.best: list[tuple[int, float]] = []
        self.documents: dict[int, tuple[str, dict[str, Any]]] = {}
        self._plan = plan
        self._parts: dict[int, ShardCandidates] = {}
        self._near: dict[int, float] = {}
        self._exact: dict[int, float] = {}
        # The documents whose exact scores decide, once they are known.
        self._finalists_M: NDArray[np.int64] | None = None
        # None once all documents are rescored.
        self._rescoring: Rescoring | None = None
        self._round_M = _NO_ORDINALS
        self.replace_candidates(parts)

    def replace_candidates(self, parts: dict[int, ShardCandidates]) -> None:
        """Replace the candidates of some shards, and restart rescoring."""
        self._parts |= parts
        for part in parts.values():
            self.add_scores(part.scored_M, part.scores)
        self._start()

    def add_scores(self, ordinals_M: NDArray[np.int64], scores: ShardScores) -> None:
        """Add the scores of documents, and the metadata that came with them."""
        self._near = dict(zip(ordinals_M.tolist(), scores.near_M.tolist(), strict=True)) | self._near
        known_M = scores.is_exact_M
        self._exact.update(zip(ordinals_M[known_M].tolist(), scores.exact_M[known_M].tolist(), strict=True))
        self.documents.update(scores.documents)

    def exhausted_shards(self, limit: int) -> list[int]:
        """The shards whose `limit` candidates were all selected: they may have more."""
        return [
            shard
            for shard, part in self._parts.items()
            if len(part.candidates.ordinals_M) == limit == np.count_nonzero(self._selected.shards_M == shard)
        ]

    def shards_of(self, ordinals: Sequence[int]) -> NDArray[np.int64]:
        """The shard of each candidate, int64 [M]."""
        return self._selected.shards_M[np.searchsorted(self._selected.ordinals_M, ordinals)]

    def advance(self, alive: Sequence[int]) -> None:
        """Rescore until scores are missing (`needed`) or the best documents are known (`best`).

        Drops the candidates of shards that are not alive, which restarts rescoring.
        """
        if any(shard not in alive for shard in self._parts):
            self._parts = {shard: part for shard, part in self._parts.items() if shard in alive}
            self._start()
        while self._rescoring is not None:
            if self._need(self._round_M, self._near):
                return
            scores = [self._near[ordinal] for ordinal in self._round_M.tolist()]
            try:
                self._round_M = self._rescoring.send(np.array(scores, dtype=np.float32))
            except StopIteration as done:
                self._finalists_M, self._rescoring = finalists(done.value, self._k).ordinals_M, None
        # A shard has nearly always sent their exact scores: they are its best documents, unless it has scored better
        # ones that this search does not rescore.
        if self._finalists_M is None or self._need(self._finalists_M, self._exact):
            return
        exact_M = np.array([self._exact[ordinal] for ordinal in self._finalists_M.tolist()], dtype=np.float32)
        best = top_with_ties(Rescored(self._finalists_M, exact_M), self._k)
        self.best = list(zip(best.ordinals_M.tolist(), best.scores_M.tolist(), strict=True))
        self._finalists_M = None

    @property
    def scoring_plan(self) -> SearchPlan:
        """The plan by which a shard scores the `needed` documents."""
        return self._plan if self._finalists_M is None else self._plan._replace(exact=True)

    def _need(self, ordinals_M: NDArray[np.int64], known: Mapping[int, float]) -> bool:
        """Set `needed` to the documents without a known score; return whether there are any."""
        missing = [ordinal for ordinal in ordinals_M.tolist() if ordinal not in known]
        shards, missing_M = self.shards_of(missing), np.array(missing, dtype=np.int64)
        self.needed = {shard: missing_M[shards == shard] for shard in np.unique(shards).tolist()}
        return bool(missing)

    def hits(self) -> list[DocumentHit]:
        """The best `k` documents, best first, ties by id."""
        described = [(score, *self.documents[ordinal]) for ordinal, score in self.best]
        hits = [DocumentHit(id_, score, metadata) for score, id_, metadata in described]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[: self._k]

    def _start(self) -> None:
        self._selected = _select_candidates(self._parts, self._plan)
        ordinals_M, scores_M, _ = self._selected
        ranked_M = rank(Candidates(ordinals_M, scores_M, scores_M))
        rounds = rescoring(ranked_M, self._plan.n_rescore, self._k)
        self._round_M = next(rounds)
        self._rescoring, self._finalists_M = rounds, None
