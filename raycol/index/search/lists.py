"""Candidates from inverted lists over centroids: stages 1 to 3 of a search (docs/search.md).

Shapes: N documents of all partitions, M selected documents, K centroids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.protocol import CODES
from raycol.index.kernels.candidates import (
    ESTIMATE_MASK,
    best_estimates,
    mark_codes,
    score_by_centroids,
    visit_lists,
)
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES
from raycol.index.search.candidates import Candidates, descending
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.plan import SearchPlan
from raycol.index.search.probes import allocate_tables, score_all, score_some
from raycol.index.search.query import Probes, Query

# Blocks of query tokens whose byte scores of all centroids are in memory at once; at most 63, for `visit_lists`.
_MAX_BLOCKS = 32


class InvertedLists:
    """The documents in the lists of each query token's nearest centroids, ranked as if tokens were their centroids.

    Estimates are of stage 2, scores of stage 3. If the plan skips stage 2, the candidates are the documents with the
    best stage-3 scores, which are then their estimates, too.
    """

    def find(self, query: Query, document_set: DocumentSet, plan: SearchPlan, limit: int) -> Candidates:
        """See `CandidateGenerator`. With `query.probes`, only the centroids of candidates are scored."""
        codec = document_set.partitions[0].codec
        n_blocks = len(query.floats_BDL)
        with codec.scratch_pool.borrow() as scratch:
            tables_BRL = allocate_tables(min(n_blocks, _MAX_BLOCKS), codec, scratch)
            scores_all = not query.probes and n_blocks <= _MAX_BLOCKS
            probes = query.probes or score_all(query, codec, plan.n_probe, tables_BRL if scores_all else None, scratch)
            if plan.n_probe:
                state_N = _visit(document_set, probes, scratch)
                ordinals_M = best_estimates(state_N, document_set.allowed_N, limit, 255 * query.n_tokens)
                estimates_M = (state_N[ordinals_M] & ESTIMATE_MASK).astype(np.int32)
            else:
                ordinals_M = document_set.ordinals
            partitions = document_set.starts, document_set.addresses, np.dtype(codec.token_layout[CODES][0]).itemsize
            if not scores_all:
                present_K = np.zeros(codec.n_centroids, dtype=bool)
                mark_codes(ordinals_M, *partitions, present_K)
                codes_C = np.flatnonzero(present_K)
            scores_M = np.zeros(len(ordinals_M), dtype=np.int32)
            for first in range(0, n_blocks, _MAX_BLOCKS):
                some_BRL = tables_BRL[: n_blocks - first]
                if not scores_all:
                    score_some(query, codec, codes_C, probes, some_BRL, first)
                scores_M += score_by_centroids(ordinals_M, some_BRL, *partitions)
        if plan.n_probe:
            return Candidates(ordinals_M, estimates_M, scores_M)
        if len(ordinals_M) > limit:
            best_M = np.sort(descending(scores_M)[:limit])
            ordinals_M, scores_M = ordinals_M[best_M], scores_M[best_M]
        return Candidates(ordinals_M, scores_M, scores_M)


def _visit(document_set: DocumentSet, probes: Probes, scratch: Scratch) -> NDArray[np.uint32]:
    """Visit the lists of each query token; return the state of every document, uint32 [N] (`kernels.candidates`)."""
    state_N: NDArray[np.uint32] = scratch.array("state", (document_set.n_documents,), np.uint32)
    state_N[:] = 0
    lists = document_set.lists
    for block, (centroids_LP, above_LP) in enumerate(zip(probes.centroids, probes.above, strict=True)):
        first = LANES * (block % _MAX_BLOCKS)
        if block and not first:
            state_N &= np.uint32(ESTIMATE_MASK)
        visit_lists(centroids_LP, above_LP, first, lists.starts, lists.addresses, state_N)
    return state_N
