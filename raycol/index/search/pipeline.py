"""The five stages of a search over open partitions (docs/search.md).

1. Score all centroids in bytes, once for all partitions (or once for all shards: `probes`).
2. Visit the inverted lists of the `n_probe` nearest centroids of each query token; this estimates every document.
3. Score the documents with the best estimates as if each token were its centroid.
4. Rescore the best `n_rescore` of these exactly, over all their tokens, and more of them while that changes the hits.
5. Return the best k; ties are in the order of their ids.

Stages 1 to 3 compare documents by integer sums only, so hits do not depend on threads or processors.

Shapes: N documents of all partitions, M selected documents, Q query tokens, K centroids. Documents are identified by
their ordinals over all partitions of the document set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.codebook import Codebook
from raycol.index.format.manifest import SearchSettings
from raycol.index.format.partition import Partition
from raycol.index.kernels.candidates import (
    ESTIMATE_MASK,
    best_estimates,
    mark_codes,
    score_by_centroids,
    visit_lists,
)
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.probes import Probes, allocate_tables, score_all, score_some
from raycol.index.search.query import Query

# Documents in stage 3 per document in the first round of stage 4. More if the search is restricted: the lists may
# then lead to few allowed documents.
_CANDIDATES_PER_RESCORED = 8
_CANDIDATES_PER_RESCORED_RESTRICTED = 32

# Stage 4 rescores in rounds and stops after 3x the stage-3 rank of the worst hit (ignoring the worst hit in 20), or
# after 16 x n_rescore documents.
_RESCORED_PER_RANK = 3
_HITS_PER_IGNORED = 20
_MAX_RESCORE_FACTOR = 16

# Approximate costs on one thread in nanoseconds (docs/search.md): of a centroid, a list entry, a token in stage 3 and
# a token in stage 4. All but the list entry are per block of LANES query tokens.
_CENTROID_NS = 25.0
_ENTRY_NS = 5.0
_CENTROID_TOKEN_NS = 5.0
_EXACT_TOKEN_NS = 115.0


# Returns the exact scores, float32 [M], of documents of one partition, by their positions in it, int64 [M].
Scorer = Callable[[Query, Partition, NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Hit:
    """A document id and its MaxSim score over the stored embeddings. Hits are equal if both are.

    `metadata` holds the document's values by column, `text` and `title` included; None unless the search was asked for
    it (`with_metadata`).
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


class Size(NamedTuple):
    """Size of the searched index, over the partitions of all shards.

    `n_documents` and `n_tokens` include deleted documents. `restricted`: a filter or a set of ids excludes documents.
    """

    n_documents: int
    n_allowed: int
    n_tokens: int
    restricted: bool


class SearchPlan(NamedTuple):
    """Parameters of one query's search, the same for all partitions.

    Args:
        n_rescore: documents in the first round of stage 4.
        n_candidates: documents in stage 3.
        n_probe: inverted lists that each query token visits in stage 2. With 0, stage 2 is skipped and stage 3 scores
            all documents, which is then cheaper.
        exact: rescore all documents, without stages 1 to 3.
    """

    n_rescore: int
    n_candidates: int
    n_probe: int
    exact: bool


class Candidates(NamedTuple):
    """Ascending ordinals of documents, int64 [M], their stage-2 estimates and their stage-3 scores, int32 [M].

    Estimates are 0 if stage 2 was skipped; scores are 0 if the plan is exact.
    """

    ordinals_M: NDArray[np.int64]
    estimates_M: NDArray[np.int32]
    scores_M: NDArray[np.int32]


class Rescored(NamedTuple):
    """Ascending ordinals of rescored documents, int64 [M], and their exact scores, float32 [M]."""

    ordinals_M: NDArray[np.int64]
    scores_M: NDArray[np.float32]


def cpu_scorer(codebook: Codebook) -> Scorer:
    """Return the scorer that runs the numba kernel on the calling thread."""

    def score(query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        return codebook.scores(query.floats_BDL, query.n_tokens, partition.tokens, partition.offsets_N, documents_M)

    return score


def search(
    query_QD: NDArray[np.float32],
    codebook: Codebook,
    document_set: DocumentSet,
    *,
    k: int,
    settings: SearchSettings,
    score: Scorer,
) -> Answer:
    """Return the best `k` documents of the document set for one query, approximately."""
    query = Query.prepare(query_QD)
    plan = plan_search(query.n_tokens, size_of(document_set), codebook.n_centroids, k=k, settings=settings)
    ranked_M = rank(find_candidates(query, codebook, document_set, plan, plan.n_candidates))
    rounds = rescoring(ranked_M, plan.n_rescore, k)
    ordinals_M = next(rounds)
    try:
        while True:
            ordinals_M = rounds.send(exact_scores(query, document_set, ordinals_M, score))
    except StopIteration as done:
        rescored: Rescored = done.value
    return Answer(_best_hits(document_set, rescored, k), len(rescored.ordinals_M))


def search_exact(query_QD: NDArray[np.float32], document_set: DocumentSet, *, k: int, score: Scorer) -> Answer:
    """Return the best `k` documents of the document set, scoring every token of all of them."""
    ordinals_N = document_set.ordinals
    scores_N = exact_scores(Query.prepare(query_QD), document_set, ordinals_N, score)
    return Answer(_best_hits(document_set, Rescored(ordinals_N, scores_N), k), len(ordinals_N))


def size_of(document_set: DocumentSet) -> Size:
    """Return the size of an index whose partitions are all in one document set."""
    return Size(document_set.n_documents, document_set.n_allowed, document_set.n_tokens, document_set.restricted)


def plan_search(n_tokens: int, size: Size, n_centroids: int, *, k: int, settings: SearchSettings) -> SearchPlan:
    """Plan the search for `k` hits of a query of `n_tokens` tokens."""
    n_rescore = max(settings.n_rescore, k)
    if size.n_allowed <= n_rescore:
        return SearchPlan(n_rescore, size.n_allowed, 0, exact=True)
    per_rescored = _CANDIDATES_PER_RESCORED_RESTRICTED if size.restricted else _CANDIDATES_PER_RESCORED
    n_candidates = per_rescored * n_rescore
    # A filter that keeps one document in s needs s times the lists to meet as many of them.
    n_probe = min(n_centroids, settings.n_probe * size.n_documents // size.n_allowed)
    entries = n_tokens * n_probe * size.n_tokens / n_centroids
    tokens = size.n_tokens * size.n_allowed / size.n_documents
    by_lists = (
        size.n_allowed > n_candidates
        and _ENTRY_NS * entries < _CENTROID_TOKEN_NS * math.ceil(n_tokens / LANES) * tokens
    )
    return SearchPlan(n_rescore, n_candidates, n_probe if by_lists else 0, exact=False)


def find_candidates(
    query: Query,
    codebook: Codebook,
    document_set: DocumentSet,
    plan: SearchPlan,
    limit: int,
    probes: Probes | None = None,
) -> Candidates:
    """Return the candidates among a document set.

    Args:
        query: the query.
        codebook: the codebook of the index.
        document_set: the documents to search.
        plan: the plan of the whole search.
        limit: the most candidates by estimate. If the plan skips stage 2, the candidates are instead the documents
            with the best stage-3 scores, as many as stage 4 can reach.
        probes: the probes of the query, if another process has found them; then only the centroids that occur in
            candidates are scored.
    """
    if plan.exact or not document_set.n_allowed:
        ordinals_M = document_set.ordinals
        zeros_M = np.zeros(len(ordinals_M), dtype=np.int32)
        return Candidates(ordinals_M, zeros_M, zeros_M)
    with codebook.scratch_pool.borrow() as scratch:
        tables_BRL = allocate_tables(query, codebook, scratch)
        query_probes = probes or score_all(query, codebook, plan.n_probe, tables_BRL, scratch)
        if plan.n_probe:
            state_N = _visit(document_set, query_probes, scratch)
            ordinals_M = best_estimates(state_N, document_set.allowed_N, limit, 255 * query.n_tokens)
            estimates_M = (state_N[ordinals_M] & ESTIMATE_MASK).astype(np.int32)
        else:
            ordinals_M = document_set.ordinals
            estimates_M = np.zeros(len(ordinals_M), dtype=np.int32)
        by_partition = document_set.split(ordinals_M)
        if probes:
            present_K = np.zeros(codebook.n_centroids, dtype=bool)
            for partition, documents in by_partition:
                mark_codes(documents, partition.offsets_N, partition.tokens.codes_T, present_K)
            score_some(query, codebook, np.flatnonzero(present_K), probes.best_BL, tables_BRL)
        scores_M = np.concatenate(
            [
                score_by_centroids(documents, tables_BRL, partition.offsets_N, partition.tokens.codes_T)
                for partition, documents in by_partition
            ]
        )
    if not plan.n_probe and len(ordinals_M) > _MAX_RESCORE_FACTOR * plan.n_rescore:
        best_M = np.sort(_ranked(scores_M)[: _MAX_RESCORE_FACTOR * plan.n_rescore])
        ordinals_M, estimates_M, scores_M = ordinals_M[best_M], estimates_M[best_M], scores_M[best_M]
    return Candidates(ordinals_M, estimates_M, scores_M)


def rank(candidates: Candidates) -> NDArray[np.int64]:
    """Return the ordinals of candidates by descending stage-3 score; ties are in ascending order."""
    return candidates.ordinals_M[_ranked(candidates.scores_M)]


def rescoring(
    ranked_M: NDArray[np.int64], n: int, k: int
) -> Generator[NDArray[np.int64], NDArray[np.float32], Rescored]:
    """Rescore the first `n` ranked documents, then more while hits still come from the end of the ranking.

    If stage 3 ranks well, the hits are near the front; the rank of the worst hit shows how far it is off.

    Yields:
        Ascending ordinals of the documents of a round; the caller sends their exact scores.

    Returns:
        All rescored documents.
    """
    limit = min(len(ranked_M), _MAX_RESCORE_FACTOR * n)
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


def _visit(document_set: DocumentSet, probes: Probes, scratch: Scratch) -> NDArray[np.uint32]:
    """Visit the lists of each query token; return the state of every document, uint32 [N] (`kernels.candidates`)."""
    state_N: NDArray[np.uint32] = scratch.array("state", (document_set.n_documents,), np.uint32)
    state_N[:] = 0
    for block, (centroids_LP, above_LP) in enumerate(zip(probes.centroids, probes.above, strict=True)):
        for p, partition in enumerate(document_set.partitions):
            visit_lists(
                centroids_LP, above_LP, LANES * block, partition.list_offsets_K, partition.list_documents_T,
                state_N[document_set.starts[p] : document_set.starts[p + 1]],
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
    """Estimate the cost of an unfiltered search that rescores `n_scored` documents, in ns of one thread."""
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
    """Merge lists of hits into the best `k`: highest score first, ties by id."""
    return sorted((hit for part in parts for hit in part), key=lambda hit: (-hit.score, hit.id))[:k]


def exact_scores(
    query: Query, document_set: DocumentSet, ordinals_M: NDArray[np.int64], score: Scorer
) -> NDArray[np.float32]:
    """Return the exact scores of documents by ascending ordinals, float32 [M]."""
    parts = [score(query, partition, documents) for partition, documents in document_set.split(ordinals_M)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def top_with_ties(rescored: Rescored, k: int) -> Rescored:
    """Return the best `k` documents and all that tie with the last of them: ids decide between these later."""
    if k >= len(rescored.scores_M):
        return rescored
    best_M = np.flatnonzero(rescored.scores_M >= np.partition(rescored.scores_M, -k)[-k])
    return Rescored(rescored.ordinals_M[best_M], rescored.scores_M[best_M])


def _best_hits(document_set: DocumentSet, rescored: Rescored, k: int) -> list[Hit]:
    ordinals_M, scores_M = top_with_ties(rescored, k)
    return merge_hits([map(Hit, document_set.ids(ordinals_M), scores_M.tolist())], k)


def _ranked(scores_M: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the positions of non-negative scores in descending order; ties are in ascending order."""
    keys_M = (scores_M.astype(np.int64) << 32) + np.arange(len(scores_M), 0, -1)
    keys_M.sort()  # keys are distinct, so the sort need not be stable
    return len(scores_M) - (keys_M[::-1] & 0xFFFFFFFF)
