"""Search over opened partitions (docs/search.md).

1. the scores of all centroids, in bytes, once, whatever the number of partitions (or elsewhere before, `probes`);
2. each query token visits its `n_probe` nearest centroids' lists, which gives every document an estimate;
3. the documents with the best estimates are scored as if each token were its centroid;
4. the `n_rescore` best of them are scored exactly over all their tokens, and more while that changes the answer;
5. the best k are returned, equal scores in the order of their ids.

Whatever decides between documents before 4 is an integer sum, so hits do not depend on threads or processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.codebook import Codebook
from raycol.index.format.partition import Partition
from raycol.index.kernels.candidates import (
    ESTIMATE_MASK,
    best_estimates,
    mark_codes,
    score_by_centroids,
    visit_lists,
)
from raycol.index.kernels.maxsim import score_documents
from raycol.index.kernels.vectors import LANES
from raycol.index.search.document_set import Scope
from raycol.index.search.effort import SearchSettings
from raycol.index.search.probes import Probes, byte_tables, score_all, score_some
from raycol.index.search.query import Query
from raycol.index.search.scratch import Scratch

# Documents that 3 scores, for each that 4 does at first; more of them where lists may lead to few that are allowed.
_CANDIDATES_PER_RESCORED = 8
_CANDIDATES_PER_RESCORED_RESTRICTED = 32

# 4 goes on until so many times the documents are scored as 3 ranked before the last hit (of many hits, before all but
# one in so many), or so many times `n_rescore`.
_SCORED_PER_RANK = 3
_LATE_HITS = 20
_MOST_RESCORED = 16

# Nanoseconds, about, on one thread (docs/search.md): a centroid, a list's entry, a document's token by its centroid,
# and a token exactly; all but the entry for LANES query tokens at a time.
_CENTROID_NS = 25.0
_ENTRY_NS = 5.0
_CENTROID_TOKEN_NS = 5.0
_EXACT_TOKEN_NS = 115.0


# Scores documents of a partition, given by their positions, exactly: float32 [M].
Scorer = Callable[[Query, Partition, NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found, and its MaxSim score over the stored embeddings."""

    id: str
    score: float


class Answer(NamedTuple):
    """The hits of one query, and how many documents were scored exactly to find them."""

    hits: list[Hit]
    n_scored: int


class Size(NamedTuple):
    """How much there is to search, over all partitions wherever they are.

    `n_documents` and `n_tokens` count what was deleted too; `restricted` says whether documents other than the
    deleted ones may not be found.
    """

    n_documents: int
    n_allowed: int
    n_tokens: int
    restricted: bool


class SearchPlan(NamedTuple):
    """How one query is searched, the same for all partitions.

    `n_candidates` documents are scored by their centroids, those with the best estimates after `n_probe` lists of each
    query token; with `n_probe` 0 all are, for less. `exact`: all are scored exactly, at once.
    """

    n_rescore: int
    n_candidates: int
    n_probe: int
    exact: bool


class Candidates(NamedTuple):
    """Documents by ascending numbers, int64 [M]; their estimates and their scores by centroids, int32 [M].

    Estimates are zeros where no lists were visited, scores where all candidates are scored exactly.
    """

    numbers_M: NDArray[np.int64]
    estimates_M: NDArray[np.int32]
    scores_M: NDArray[np.int32]


class Rescored(NamedTuple):
    """Documents that were scored exactly, by ascending numbers, int64 [M], and their scores, float32 [M]."""

    numbers_M: NDArray[np.int64]
    scores_M: NDArray[np.float32]


def cpu_scorer(codebook: Codebook) -> Scorer:
    """The kernel of this package, on the thread that calls it."""

    def score(query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_M: NDArray[np.float32] = score_documents(
            documents_M, query.floats_BDL, query.n_tokens, codebook.centroids_KD, codebook.lows_D, codebook.steps_D,
            partition.offsets_N, partition.codes_T, partition.residuals_TB, partition.gains_T,
            partition.scales_T.view(np.uint16), codebook.bits,
        )  # fmt: skip
        return scores_M

    return score


def search(
    query_QD: NDArray[np.float32], codebook: Codebook, scope: Scope, *, k: int, settings: SearchSettings, score: Scorer
) -> Answer:
    """The best `k` documents for one query among those of the scope, approximately."""
    query = Query.prepare(query_QD)
    plan = plan_search(query.n_tokens, size_of(scope), codebook.n_centroids, k=k, settings=settings)
    ranked_M = rank(find_candidates(query, codebook, scope, plan, plan.n_candidates))
    steps = rescoring(ranked_M, plan.n_rescore, k)
    numbers_M = next(steps)
    try:
        while True:
            numbers_M = steps.send(exact_scores(query, scope, numbers_M, score))
    except StopIteration as done:
        found: Rescored = done.value
    return Answer(_best_hits(scope, found, k), len(found.numbers_M))


def search_exact(query_QD: NDArray[np.float32], scope: Scope, *, k: int, score: Scorer) -> Answer:
    """The best `k` documents of the scope, every token of theirs scored."""
    numbers_N = scope.numbers
    scores_N = exact_scores(Query.prepare(query_QD), scope, numbers_N, score)
    return Answer(_best_hits(scope, Rescored(numbers_N, scores_N), k), len(numbers_N))


def size_of(scope: Scope) -> Size:
    """Where all partitions are of one scope."""
    return Size(scope.n_documents, scope.n_allowed, scope.n_tokens, scope.restricted)


def plan_search(n_tokens: int, size: Size, n_centroids: int, *, k: int, settings: SearchSettings) -> SearchPlan:
    """How a query of `n_tokens` tokens is searched."""
    n_rescore = max(settings.n_rescore, k)
    if size.n_allowed <= n_rescore:
        return SearchPlan(n_rescore, size.n_allowed, 0, exact=True)
    per_rescored = _CANDIDATES_PER_RESCORED_RESTRICTED if size.restricted else _CANDIDATES_PER_RESCORED
    n_candidates = per_rescored * n_rescore
    # Where a filter leaves a share of the documents, as many of these are met in so many times the lists.
    n_probe = min(n_centroids, settings.n_probe * size.n_documents // size.n_allowed)
    entries = n_tokens * n_probe * size.n_tokens / n_centroids
    tokens = size.n_tokens * size.n_allowed / size.n_documents
    by_lists = (
        size.n_allowed > n_candidates
        and _ENTRY_NS * entries < _CENTROID_TOKEN_NS * math.ceil(n_tokens / LANES) * tokens
    )
    return SearchPlan(n_rescore, n_candidates, n_probe if by_lists else 0, exact=False)


def find_candidates(
    query: Query, codebook: Codebook, scope: Scope, plan: SearchPlan, limit: int, probes: Probes | None = None
) -> Candidates:
    """The candidates among the documents of a scope, at most `limit` by estimate where there are.

    Where there are none, they are those that may ever be scored exactly, by their scores.

    Where the query's `probes` are known, only those centroids are scored that candidates have.
    """
    if plan.exact or not scope.n_allowed:
        numbers_M = scope.numbers
        none_M = np.zeros(len(numbers_M), dtype=np.int32)
        return Candidates(numbers_M, none_M, none_M)
    with codebook.scratches.one() as scratch:
        tables_BRL = byte_tables(query, codebook, scratch)
        found = probes or score_all(query, codebook, plan.n_probe, tables_BRL, scratch)
        if plan.n_probe:
            state_N = _visit(scope, found, scratch)
            numbers_M = best_estimates(state_N, scope.allowed_N, limit, 255 * query.n_tokens)
            estimates_M = (state_N[numbers_M] & ESTIMATE_MASK).astype(np.int32)
        else:
            numbers_M = scope.numbers
            estimates_M = np.zeros(len(numbers_M), dtype=np.int32)
        parts = scope.split(numbers_M)
        if probes:
            marked_K = np.zeros(codebook.n_centroids, dtype=bool)
            for partition, documents in parts:
                mark_codes(documents, partition.offsets_N, partition.codes_T, marked_K)
            score_some(query, codebook, np.flatnonzero(marked_K), probes.best_BL, tables_BRL)
        scores_M = np.concatenate(
            [
                score_by_centroids(documents, tables_BRL, partition.offsets_N, partition.codes_T)
                for partition, documents in parts
            ]
        )
    if not plan.n_probe and len(numbers_M) > _MOST_RESCORED * plan.n_rescore:
        kept_M = np.sort(_ranked(scores_M)[: _MOST_RESCORED * plan.n_rescore])
        numbers_M, estimates_M, scores_M = numbers_M[kept_M], estimates_M[kept_M], scores_M[kept_M]
    return Candidates(numbers_M, estimates_M, scores_M)


def rank(found: Candidates) -> NDArray[np.int64]:
    """The numbers of candidates, from the best score by centroids to the worst; equals in their order."""
    return found.numbers_M[_ranked(found.scores_M)]


def rescoring(
    ranked_M: NDArray[np.int64], n: int, k: int
) -> Generator[NDArray[np.int64], NDArray[np.float32], Rescored]:
    """Have the first `n` documents scored exactly, and the next ones while hits come from among the last scored.

    Where estimates rank well, the hits are among the first; the last hit's rank says how far they may be off.

    Yields:
        Ascending numbers of documents, whose scores are to be sent.

    Returns:
        All that were scored.
    """
    most = min(len(ranked_M), _MOST_RESCORED * n)
    scores_M = np.empty(most, dtype=np.float32)
    scored = 0
    while True:
        numbers = ranked_M[scored : min(n, most)]
        ascending = np.argsort(numbers)
        scores_M[scored + ascending] = yield numbers[ascending]
        scored += len(numbers)
        if scored == most:
            break
        edge = np.partition(scores_M[:scored], -k)[-k]
        last = int(np.flatnonzero(scores_M[:scored] >= edge)[k - 1 - k // _LATE_HITS])
        n = max(n, _SCORED_PER_RANK * (last + 1))
        if scored >= n:
            break
    ascending = np.argsort(ranked_M[:scored])
    return Rescored(ranked_M[ascending], scores_M[ascending])


def _visit(scope: Scope, probes: Probes, scratch: Scratch) -> NDArray[np.uint32]:
    """Every document's state after the lists of each query token."""
    state_N: NDArray[np.uint32] = scratch.array("state", (scope.n_documents,), np.uint32)
    state_N[:] = 0
    for number, (centroids_LP, above_LP) in enumerate(zip(probes.centroids, probes.above, strict=True)):
        for p, partition in enumerate(scope.partitions):
            visit_lists(
                centroids_LP, above_LP, LANES * number, partition.list_offsets_K, partition.list_documents_T,
                state_N[scope.starts[p] : scope.starts[p + 1]],
            )  # fmt: skip
    return state_N


def cost_ns(
    settings: SearchSettings,
    n_scored: float,
    *,
    n_centroids: int,
    n_tokens: int,
    n_documents: int,
    query_tokens: float,
) -> float:
    """About what a search without a filter that scores `n_scored` documents exactly costs one thread, in ns."""
    blocks = math.ceil(query_tokens / LANES)
    entries = query_tokens * settings.n_probe * n_tokens / n_centroids
    rescored = min(n_scored, n_documents) * n_tokens / n_documents
    candidates = min(_CANDIDATES_PER_RESCORED * settings.n_rescore, n_documents) * n_tokens / n_documents
    per_block = _CENTROID_NS * n_centroids + _CENTROID_TOKEN_NS * candidates + _EXACT_TOKEN_NS * rescored
    return blocks * per_block + _ENTRY_NS * entries


class _Scored(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def merge_hits(parts: Iterable[Iterable[S]], k: int) -> list[S]:
    """The best `k` of several lists of hits: highest score first, equal scores by id."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: (-hit.score, hit.id))[:k]


def exact_scores(query: Query, scope: Scope, numbers_M: NDArray[np.int64], score: Scorer) -> NDArray[np.float32]:
    """Scores of documents, given by ascending numbers, float32 [M]."""
    parts = [score(query, partition, documents) for partition, documents in scope.split(numbers_M)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def best(found: Rescored, k: int) -> Rescored:
    """The best `k` of documents, and all that tie with the last: these compete by their ids."""
    if k >= len(found.scores_M):
        return found
    best_M = np.flatnonzero(found.scores_M >= np.partition(found.scores_M, -k)[-k])
    return Rescored(found.numbers_M[best_M], found.scores_M[best_M])


def _best_hits(scope: Scope, found: Rescored, k: int) -> list[Hit]:
    numbers_M, scores_M = best(found, k)
    return merge_hits([map(Hit, scope.ids(numbers_M), scores_M.tolist())], k)


def _ranked(scores_M: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions of scores, none below 0, from the largest to the smallest; equals in their order."""
    keys_M = (scores_M.astype(np.int64) << 32) + np.arange(len(scores_M), 0, -1)
    keys_M.sort()  # no two are equal, so that the quickest sort will do
    return len(scores_M) - (keys_M[::-1] & 0xFFFFFFFF)
