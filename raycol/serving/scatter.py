"""One search over all shards: candidates from each, the choice among all of them, exact scores, the best k.

Knows nothing of Ray: a shard is whatever answers `ask(method, *arguments)`. One that does not answer, or not in time,
is left out from then on, and the answer says so.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.search.effort import SearchSettings
from raycol.index.search.pipeline import (
    Candidates,
    Rescored,
    SearchPlan,
    Size,
    plan_search,
    rank,
    rescoring,
    top_with_ties,
)
from raycol.index.search.probes import Probes
from raycol.index.search.shard import Selection, ShardCandidates, ShardScores
from raycol.serving.circuit_breaker import Breaker

Ask = Callable[..., Awaitable[Any]]
Probe = Callable[[Sequence[NDArray[np.float32]], Sequence[SearchPlan]], Awaitable[list[Probes | None]]]

# A shard's part of the candidates, and of the documents scored ahead, is taken to be so many times an even one.
_CANDIDATES_SHARE = 1.5
_AHEAD_SHARE = 1.25
# So many more, since small parts vary most.
_CANDIDATES_MORE = 32
_AHEAD_MORE = 4

# Of the time that is left a shard has so much for an answer: the others may have to be asked once more without it.
_STEP_SHARE = 0.8

# What a shard whose files are damaged may well answer: that it does says nothing of whether it is down.
_WITHOUT_FILES = ("count",)

# More than documents' numbers have, and with estimates' (255 for each query token at most) not more than 64.
_NUMBER_BITS = 40

# `rescoring` at work.
Rescoring = Generator[NDArray[np.int64], NDArray[np.float32], Rescored]

_NO_NUMBERS = np.empty(0, dtype=np.int64)
_NO_SCORES = np.empty(0, dtype=np.int32)


class FoundHit(NamedTuple):
    """A hit with what the index keeps of its document."""

    id: str
    score: float
    metadata: dict[str, Any]


class ShardDownError(Exception):
    """A shard did not answer before, and is not asked."""


class Gathered(NamedTuple):
    """The hits of each query, by how many shards they were found, and seconds by stage."""

    results: list[list[FoundHit]]
    answered: int
    seconds: dict[str, float]


class Shards:
    """The shards of one search: asked together, until a deadline; those that fail are not asked again.

    Args:
        asks: one a shard.
        deadline: when to give up, by `time.monotonic`.
        on_failure: told the number of a shard and why it failed.
        breakers: one a shard; those that are down are not asked, and told what they would have been asked.
    """

    def __init__(
        self,
        asks: Sequence[Ask],
        deadline: float,
        on_failure: Callable[[int, BaseException], None],
        breakers: Sequence[Breaker] = (),
    ) -> None:
        self._asks = asks
        self._deadline = deadline
        self._on_failure = on_failure
        self._breakers = breakers
        self._down = [number for number, breaker in enumerate(breakers) if breaker.is_down]
        self.alive = [number for number in range(len(asks)) if number not in self._down]
        self.failures: dict[int, BaseException] = {}
        for number in self._down:
            self._give_up(number, ShardDownError())

    def __len__(self) -> int:
        return len(self._asks)

    def step_s(self) -> float:
        """Seconds that the next step may take, so that another can follow it."""
        return _STEP_SHARE * max(0.0, self._deadline - time.monotonic())

    async def ask_each(self, method: str, *arguments: Any) -> dict[int, Any]:
        """The answers of all shards to the same question; raises as `ask_all`."""
        if method not in _WITHOUT_FILES:
            for number in self._down:
                ask = partial(self._asks[number], method, *arguments)
                self._breakers[number].try_again(ask, max(0.0, self._deadline - time.monotonic()))
            self._down = []
        return await self.ask_all(method, dict.fromkeys(self.alive, arguments))

    async def ask_all(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """The answers of those shards that are given arguments, by their numbers.

        Raises:
            InputError: a shard refused what it was asked.
        """
        numbers = [number for number in self.alive if number in arguments]
        started = time.monotonic()
        tasks = [asyncio.ensure_future(self._asks[number](method, *arguments[number])) for number in numbers]
        if not tasks:
            return {}
        try:
            await asyncio.wait(tasks, timeout=self.step_s())
        finally:
            for task in tasks:
                task.cancel()
        answers = {}
        for number, task in zip(numbers, tasks, strict=True):
            # One that was cancelled a moment ago may not have noticed yet.
            failure = task.exception() if task.done() and not task.cancelled() else TimeoutError("no answer in time")
            if isinstance(failure, InputError):
                raise failure
            if failure is None:
                answers[number] = task.result()
                if self._breakers and method not in _WITHOUT_FILES:
                    self._breakers[number].answered()
            else:
                self.alive.remove(number)
                if self._breakers and isinstance(failure, TimeoutError):
                    self._breakers[number].was_late(time.monotonic() - started)
                self._give_up(number, failure)
        return answers

    def _give_up(self, number: int, failure: BaseException) -> None:
        self.failures[number] = failure
        self._on_failure(number, failure)


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
) -> Gathered:
    """The best `k` documents for each query over all shards that answer.

    Args:
        shards: all shards of one version.
        queries: float32 [n_tokens, dim] each.
        k: hits a query.
        settings: how hard to look.
        size: of the whole version, without a filter.
        n_centroids: of the version's codebook.
        selection: which documents may be found.
        probe: finds the queries' probes; without it every shard does.

    Raises:
        InputError: a shard refused the request.
        TimeoutError: `probe` took too long.
    """
    started = time.perf_counter()
    if selection != Selection():
        counts = await shards.ask_each("count", selection)
        allowed = sum(counts.values())
        size = size._replace(n_allowed=allowed, restricted=allowed < size.n_allowed)
    plans = [plan_search(len(query), size, n_centroids, k=k, settings=settings) for query in queries]
    # Telling of documents that may not be hits saves one query a step; to many, that step costs less.
    tell = k if len(queries) == 1 else 0
    planned = time.perf_counter()
    probes: Sequence[Probes | None] = [None] * len(queries)
    if probe and any(plan.n_probe for plan in plans):
        try:
            async with asyncio.timeout(shards.step_s()):
                probes = await probe(queries, plans)
        except TimeoutError:
            raise TimeoutError("the nearest centroids were not found in time") from None
    probed = time.perf_counter()
    searches = await _candidates(shards, queries, plans, probes, selection, k, tell)
    found = time.perf_counter()
    lost = True
    while lost:
        await _score(shards, searches, queries, tell)
        n_alive = len(shards.alive)
        await _describe(shards, searches)
        lost = len(shards.alive) < n_alive
        for search in searches:
            search.go_on(shards.alive)
    results = [search.hits() for search in searches]
    done = time.perf_counter()
    seconds = {
        "centroids": probed - planned,
        "candidates": found - started - (probed - planned),
        "scores": done - found,
    }
    return Gathered(results, len(shards.alive), seconds)


async def _candidates(
    shards: Shards,
    queries: Sequence[NDArray[np.float32]],
    plans: Sequence[SearchPlan],
    probes: Sequence[Probes | None],
    selection: Selection,
    k: int,
    tell: int,
) -> list[_Search]:
    """Each query's search with the shards' candidates: all of a shard's where its first ones were among the best."""
    n_shards = len(shards.alive)
    limits = [min(plan.n_candidates, _share(plan.n_candidates, n_shards, "candidates")) for plan in plans]
    alone = len(queries) == 1 or n_shards == 1
    # Where queries come in numbers a second question costs little, and scoring in vain would cost all the others.
    ahead = [_share(plan.n_rescore, n_shards, "ahead") if alone or plan.exact else 0 for plan in plans]
    found = await shards.ask_each("candidates", queries, plans, selection, tell, limits, ahead, probes)
    searches = [
        _Search(k, plan, {shard: parts[number] for shard, parts in found.items()}) for number, plan in enumerate(plans)
    ]
    again: dict[int, list[int]] = {}
    for number, plan in enumerate(plans):
        if plan.n_probe and limits[number] < plan.n_candidates:
            for shard in searches[number].used_up(limits[number]):
                again.setdefault(shard, []).append(number)
    more = await shards.ask_all(
        "candidates",
        {
            shard: (
                [queries[number] for number in numbers],
                [plans[number] for number in numbers],
                selection,
                tell,
                [plans[number].n_candidates for number in numbers],
                [ahead[number] for number in numbers],
                [probes[number] for number in numbers],
            )
            for shard, numbers in again.items()
        },
    )
    for number, search in enumerate(searches):
        wider = {shard: parts[again[shard].index(number)] for shard, parts in more.items() if number in again[shard]}
        if wider:
            search.widen(wider)
        search.go_on(shards.alive)
    return searches


async def _score(
    shards: Shards, searches: Sequence[_Search], queries: Sequence[NDArray[np.float32]], tell: int
) -> None:
    """Have shards score what searches want, until these want no more."""
    while waiting := [number for number, search in enumerate(searches) if search.wanted]:
        wanted = {
            shard: [(number, searches[number].wanted[shard]) for number in waiting if shard in searches[number].wanted]
            for shard in shards.alive
        }
        scores = await shards.ask_all(
            "score",
            {
                shard: ([queries[number] for number, _ in pairs], [numbers_M for _, numbers_M in pairs], tell)
                for shard, pairs in wanted.items()
                if pairs
            },
        )
        for shard, answers in scores.items():
            for (number, numbers_M), answer in zip(wanted[shard], answers, strict=True):
                searches[number].take(numbers_M, answer)
        for search in searches:
            search.go_on(shards.alive)


async def _describe(shards: Shards, searches: Sequence[_Search]) -> None:
    """Ask for what is kept of the best documents, where it is not known yet."""
    unknown: dict[int, set[int]] = {}
    for search in searches:
        missing = [number for number, _ in search.best if number not in search.documents]
        for number, shard in zip(missing, search.shards_of(missing).tolist(), strict=True):
            unknown.setdefault(shard, set()).add(number)
    answers = await shards.ask_all(
        "describe",
        {shard: (np.array(sorted(numbers), dtype=np.int64),) for shard, numbers in unknown.items()},
    )
    for search in searches:
        for described in answers.values():
            search.documents |= {number: described[number] for number, _ in search.best if number in described}


def _share(n: int, shards: int, what: str) -> int:
    """How many of `n` documents to take from one of the shards."""
    if shards <= 1:
        return n
    times, more = {"candidates": (_CANDIDATES_SHARE, _CANDIDATES_MORE), "ahead": (_AHEAD_SHARE, _AHEAD_MORE)}[what]
    return min(n, math.ceil(times * n / shards) + more)


class _Chosen(NamedTuple):
    """Candidates by ascending numbers, int64 [M], their scores by centroids, int32 [M], and shards, int64 [M]."""

    numbers_M: NDArray[np.int64]
    scores_M: NDArray[np.int32]
    shards_M: NDArray[np.int64]


def _choose(parts: dict[int, ShardCandidates], plan: SearchPlan) -> _Chosen:
    """Those of the shards' candidates that a search over all partitions would have: the first by their estimates."""
    found = [part.candidates for part in parts.values()]
    numbers_M = np.concatenate([_NO_NUMBERS, *(each.ordinals_M for each in found)])
    scores_M = np.concatenate([_NO_SCORES, *(each.scores_M for each in found)])
    shards_M = np.repeat(list(parts), [len(each.ordinals_M) for each in found]).astype(np.int64)
    kept_M = np.argsort(numbers_M)
    if plan.n_probe and len(numbers_M) > plan.n_candidates:
        # One key for both, of equal estimates the first numbers: the last one that is kept is found without sorting.
        estimates_M = np.concatenate([each.estimates_M for each in found])
        keys_M = (estimates_M.astype(np.int64) << _NUMBER_BITS) - numbers_M
        last = np.partition(keys_M, -plan.n_candidates)[-plan.n_candidates]
        kept_M = kept_M[keys_M[kept_M] >= last]
    return _Chosen(numbers_M[kept_M], scores_M[kept_M], shards_M[kept_M])


class _Search:
    """The search of one query: which documents it wants scored next, of which shards, until it has its hits."""

    def __init__(self, k: int, plan: SearchPlan, parts: dict[int, ShardCandidates]) -> None:
        self._k = k
        self.wanted: dict[int, NDArray[np.int64]] = {}
        self.best: list[tuple[int, float]] = []
        self.documents: dict[int, tuple[str, dict[str, Any]]] = {}
        self._plan = plan
        self._parts: dict[int, ShardCandidates] = {}
        self._scores: dict[int, float] = {}
        # At work, and what it asks for; None at the end.
        self._steps: Rescoring | None = None
        self._asked_M = _NO_NUMBERS
        self.widen(parts)

    def widen(self, parts: dict[int, ShardCandidates]) -> None:
        """Take what shards have found, in place of what they had before."""
        self._parts |= parts
        for part in parts.values():
            self.take(part.scored_M, part.scores)
        self._start()

    def take(self, numbers_M: NDArray[np.int64], found: ShardScores) -> None:
        """Take the exact scores of some documents."""
        self._scores.update(zip(numbers_M.tolist(), found.scores_M.tolist(), strict=True))
        self.documents.update(found.documents)

    def used_up(self, limit: int) -> list[int]:
        """The shards whose candidates are all chosen, `limit` of them: they may have more."""
        return [
            shard
            for shard, part in self._parts.items()
            if len(part.candidates.ordinals_M) == limit == np.count_nonzero(self._chosen.shards_M == shard)
        ]

    def shards_of(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Which shard holds each of some candidates."""
        return self._chosen.shards_M[np.searchsorted(self._chosen.numbers_M, numbers)]

    def go_on(self, alive: Sequence[int]) -> None:
        """To where scores are wanted that no shard has given, or to the end. What lost shards found is given up."""
        if any(shard not in alive for shard in self._parts):
            self._parts = {shard: part for shard, part in self._parts.items() if shard in alive}
            self._start()
        while self._steps is not None:
            missing = [number for number in self._asked_M.tolist() if number not in self._scores]
            if missing:
                shards = self.shards_of(missing)
                numbers_M = np.array(missing, dtype=np.int64)
                self.wanted = {shard: numbers_M[shards == shard] for shard in np.unique(shards).tolist()}
                return
            scores = [self._scores[number] for number in self._asked_M.tolist()]
            try:
                self._asked_M = self._steps.send(np.array(scores, dtype=np.float32))
            except StopIteration as done:
                found: Rescored = top_with_ties(done.value, self._k)
                self.best = list(zip(found.ordinals_M.tolist(), found.scores_M.tolist(), strict=True))
                self.wanted, self._steps = {}, None

    def hits(self) -> list[FoundHit]:
        """The best documents, equal scores by id: the last of these go where there are more than `k`."""
        kept = [(score, *self.documents[number]) for number, score in self.best]
        hits = [FoundHit(id_, score, metadata) for score, id_, metadata in kept]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[: self._k]

    def _start(self) -> None:
        self._chosen = _choose(self._parts, self._plan)
        numbers_M, scores_M, _ = self._chosen
        ranked_M = rank(Candidates(numbers_M, scores_M, scores_M))
        steps = rescoring(ranked_M, self._plan.n_rescore, self._k)
        self._asked_M = next(steps)
        self._steps = steps
