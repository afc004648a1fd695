"""Candidates of a search, and the protocol of what generates them. `InvertedLists` is the reference implementation.

Shapes: M documents, identified by their ordinals over all partitions of the document set.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from raycol.index.search.document_set import DocumentSet
from raycol.index.search.plan import SearchPlan
from raycol.index.search.query import Query


class Candidates(NamedTuple):
    """Ascending ordinals of documents, int64 [M], and two numbers of each, int32 [M], not negative.

    Of the candidates of all shards, a search keeps the `n_candidates` of its plan with the highest estimates, and
    rescores these by descending score; ties are in ascending order of the ordinals.
    """

    ordinals_M: NDArray[np.int64]
    estimates_M: NDArray[np.int32]
    scores_M: NDArray[np.int32]


class CandidateGenerator(Protocol):
    """Finds the documents that may be hits, which a scorer then scores.

    A document's estimate and score may depend on the query, the document and the plan only, not on the other documents
    in the set: hits are then the same for any number of shards.
    """

    def find(self, query: Query, document_set: DocumentSet, plan: SearchPlan, limit: int) -> Candidates:
        """Return the allowed documents of a set with the best estimates.

        Args:
            query: the query.
            document_set: the documents to search; at least one is allowed (`allowed_N`).
            plan: the plan of the whole search; it is not exact.
            limit: the most candidates. A shard may get a lower limit than the plan's first, then be asked again.
        """


def find_candidates(
    generator: CandidateGenerator, query: Query, document_set: DocumentSet, plan: SearchPlan, limit: int
) -> Candidates:
    """Return the candidates among a document set: with an exact plan, all of its documents."""
    if plan.exact or not document_set.n_allowed:
        ordinals_M = document_set.ordinals
        zeros_M = np.zeros(len(ordinals_M), dtype=np.int32)
        return Candidates(ordinals_M, zeros_M, zeros_M)
    return generator.find(query, document_set, plan, limit)


def rank(candidates: Candidates) -> NDArray[np.int64]:
    """Return the ordinals of candidates by descending score; ties are in ascending order."""
    return candidates.ordinals_M[descending(candidates.scores_M)]


def descending(scores_M: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the positions of non-negative scores in descending order; ties are in ascending order."""
    keys_M = (scores_M.astype(np.int64) << 32) + np.arange(len(scores_M), 0, -1)
    keys_M.sort()  # keys are distinct, so the sort need not be stable
    return len(scores_M) - (keys_M[::-1] & 0xFFFFFFFF)
