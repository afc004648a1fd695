"""The six stages of a search over open partitions (docs/search.md).

1. Score all centroids in bytes, once for all partitions (or once for all shards: `probes`).
2. Visit the inverted lists of the `n_probe` nearest centroids of each query token; this estimates every document.
3. Score the documents with the best estimates as if each token were its centroid.
4. Rescore the best `n_rescore` of these over all their tokens, nearly exactly, and more of them while that changes the
   hits.
5. Score the best k of these exactly, and a few more: about k / 16.
6. Return the best k; ties are in the order of their ids.

Stages 1 to 3 are a candidate generator (`lists`), stages 4 and 5 are a scorer (`scoring`); both can be replaced. The
lists compare documents by integer sums only, so candidates do not depend on threads or processors. Scores do not
depend on threads; a processor may change their last bit.

Shapes: N documents of all partitions, M selected documents, Q query tokens, D dimensions. Documents are identified by
their ordinals over all partitions of the document set.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.manifest import SearchSettings
from raycol.index.search.candidates import CandidateGenerator, find_candidates, rank
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.plan import MAX_RESCORE_FACTOR, SearchPlan, plan_search, size_of
from raycol.index.search.query import Query
from raycol.index.search.scoring import NearScorer, Score, Scorer, exact_scores

# Stage 5 scores this many documents more than there are hits, and one more for this many hits.
_MORE_EXACT = 4
_HITS_PER_MORE_EXACT = 16

# Stage 4 rescores in rounds and stops after 3x the stage-3 rank of the worst hit (ignoring the worst hit in 20).
_RESCORED_PER_RANK = 3
_HITS_PER_IGNORED = 20


@dataclass(frozen=True, slots=True)
class Hit:
    """A document id and its score over the stored embeddings: MaxSim unless the index has another scorer.

    Hits are equal if both are. `metadata` holds the document's values by column, `text` and `title` included; None
    unless the search was asked for it (`with_metadata`).
    """

    id: str
    score: float
    metadata: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str | None:
        """The column `text`; None if the index does not store it, or without metadata."""
        return self.metadata.get("text") if self.metadata else None

    @property
    def title(self) -> str | None:
        """The column `title`; None if the index does not store it, or without metadata."""
        return self.metadata.get("title") if self.metadata else None


class Answer(NamedTuple):
    """The hits of one query, and the number of documents that were rescored to find them."""

    hits: list[Hit]
    n_scored: int


class Rescored(NamedTuple):
    """Ascending ordinals of rescored documents, int64 [M], and their scores, float32 [M]."""

    ordinals_M: NDArray[np.int64]
    scores_M: NDArray[np.float32]


def search(
    query_QD: NDArray[np.float32],
    document_set: DocumentSet,
    *,
    k: int,
    settings: SearchSettings,
    n_centroids: int,
    generator: CandidateGenerator,
    scorer: Scorer,
) -> Answer:
    """Return the best `k` documents of the document set for one query, approximately."""
    query = Query.prepare(query_QD)
    plan = plan_search(query.n_tokens, size_of(document_set), n_centroids, k=k, settings=settings)
    ranked_M = rank(find_candidates(generator, query, document_set, plan, plan.n_candidates))
    exact = partial(exact_scores, query, document_set, scorer)
    with near_scorer(query, document_set, plan, scorer) as near:
        rounds = rescoring(ranked_M, plan.n_rescore, k)
        ordinals_M = next(rounds)
        try:
            while True:
                ordinals_M = rounds.send(near(ordinals_M) if near else exact(ordinals_M))
        except StopIteration as done:
            rescored: Rescored = done.value
    scored = rescored
    if near:
        ordinals_M = finalists(rescored, k).ordinals_M
        scored = Rescored(ordinals_M, exact(ordinals_M))
    return Answer(_best_hits(document_set, scored, k), len(rescored.ordinals_M))


def near_scorer(
    query: Query, document_set: DocumentSet, plan: SearchPlan, scorer: Scorer
) -> AbstractContextManager[Score | None]:
    """Lend what nearly scores the documents of a search; None if they are to be scored exactly at once."""
    if plan.exact or not document_set.partitions or not isinstance(scorer, NearScorer):
        return nullcontext(None)
    return scorer.near(query, document_set)


def search_exact(query_QD: NDArray[np.float32], document_set: DocumentSet, *, k: int, scorer: Scorer) -> Answer:
    """Return the best `k` documents of the document set, scoring every token of all of them."""
    ordinals_N = document_set.ordinals
    scores_N = exact_scores(Query.prepare(query_QD), document_set, scorer, ordinals_N)
    return Answer(_best_hits(document_set, Rescored(ordinals_N, scores_N), k), len(ordinals_N))


def rescoring(
    ranked_M: NDArray[np.int64], n: int, k: int
) -> Generator[NDArray[np.int64], NDArray[np.float32], Rescored]:
    """Rescore the first `n` ranked documents, then more while hits still come from the end of the ranking.

    If stage 3 ranks well, the hits are near the front; the rank of the worst hit shows how far it is off.

    Yields:
        Ascending ordinals of the documents of a round; the caller sends their scores.

    Returns:
        All rescored documents.
    """
    limit = min(len(ranked_M), MAX_RESCORE_FACTOR * n)
    scores_M = np.empty(limit, dtype=np.float32)
    scored = 0
    while True:
        ordinals = ranked_M[scored : min(n, limit)]
        ascending = np.argsort(ordinals)
        scores_M[scored + ascending] = yield ordinals[ascending]
        scored += len(ordinals)
        if scored == limit:
            break
        threshold = np.partition(scores_M[:scored], -k)[-k]
        worst_rank = int(np.flatnonzero(scores_M[:scored] >= threshold)[k - 1 - k // _HITS_PER_IGNORED])
        n = max(n, _RESCORED_PER_RANK * (worst_rank + 1))
        if scored >= n:
            break
    ascending = np.argsort(ranked_M[:scored])
    return Rescored(ranked_M[ascending], scores_M[ascending])


class _Scored(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def merge_hits(parts: Iterable[Iterable[S]], k: int) -> list[S]:
    """Merge lists of hits into the best `k`: highest score first, ties by id."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: (-hit.score, hit.id))[:k]


def finalists(rescored: Rescored, k: int) -> Rescored:
    """Return the nearly scored documents that are to be scored exactly for `k` hits."""
    return top_with_ties(rescored, k + _MORE_EXACT + k // _HITS_PER_MORE_EXACT)


def top_with_ties(rescored: Rescored, k: int) -> Rescored:
    """Return the best `k` documents and all that tie with the last of them: ids decide between these later."""
    if k >= len(rescored.scores_M):
        return rescored
    best_M = np.flatnonzero(rescored.scores_M >= np.partition(rescored.scores_M, -k)[-k])
    return Rescored(rescored.ordinals_M[best_M], rescored.scores_M[best_M])


def _best_hits(document_set: DocumentSet, rescored: Rescored, k: int) -> list[Hit]:
    ordinals_M, scores_M = top_with_ties(rescored, k)
    return merge_hits([map(Hit, document_set.ids(ordinals_M), scores_M.tolist())], k)
