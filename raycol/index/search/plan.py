"""Plans a search: how many documents each stage handles, and what that costs."""

from __future__ import annotations

import math
from typing import NamedTuple

from raycol.index.format.manifest import SearchSettings
from raycol.index.kernels.vectors import LANES
from raycol.index.search.document_set import DocumentSet

# Candidates per document in the first round of stage 4. More if the search is restricted: the lists may then lead to
# few allowed documents.
_CANDIDATES_PER_RESCORED = 8
_CANDIDATES_PER_RESCORED_RESTRICTED = 32

# The fewer query tokens, the more documents have the best centroids of all of them: only stage 4 tells these apart. A
# query of fewer tokens than this visits and rescores twice as many as the settings say.
_SHORT_QUERY = 8

# Stage 4 rescores at most 16 x n_rescore documents.
MAX_RESCORE_FACTOR = 16

# Approximate costs on one thread in nanoseconds (docs/search.md): of a centroid, a list entry, a token in stage 3 and
# a token in stage 4. All but the list entry are per block of LANES query tokens. They are the same on every processor,
# as are plans.
_CENTROID_NS = 25.0
_ENTRY_NS = 5.0
_CENTROID_TOKEN_NS = 5.0
_NEAR_TOKEN_NS = 60.0


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
        n_candidates: the most candidates: the documents that stage 4 ranks.
        n_probe: inverted lists that each query token visits in stage 2. With 0, stage 2 is skipped and stage 3 scores
            all documents, which is then cheaper.
        exact: rescore all documents, without stages 1 to 3.
    """

    n_rescore: int
    n_candidates: int
    n_probe: int
    exact: bool


def size_of(document_set: DocumentSet) -> Size:
    """Return the size of an index whose partitions are all in one document set."""
    return Size(document_set.n_documents, document_set.n_allowed, document_set.n_tokens, document_set.restricted)


def plan_search(n_tokens: int, size: Size, n_centroids: int, *, k: int, settings: SearchSettings) -> SearchPlan:
    """Plan the search for `k` hits of a query of `n_tokens` tokens."""
    factor = _factor(n_tokens)
    n_rescore = max(factor * settings.n_rescore, k)
    if size.n_allowed <= n_rescore:
        return SearchPlan(n_rescore, size.n_allowed, 0, exact=True)
    per_rescored = _CANDIDATES_PER_RESCORED_RESTRICTED if size.restricted else _CANDIDATES_PER_RESCORED
    n_candidates = per_rescored * n_rescore
    # A filter that keeps one document in s needs s times the lists to meet as many of them.
    n_probe = min(n_centroids, factor * settings.n_probe * size.n_documents // size.n_allowed)
    entries = n_tokens * n_probe * size.n_tokens / n_centroids
    tokens = size.n_tokens * size.n_allowed / size.n_documents
    by_lists = (
        size.n_allowed > n_candidates
        and _ENTRY_NS * entries < _CENTROID_TOKEN_NS * math.ceil(n_tokens / LANES) * tokens
    )
    if by_lists:
        return SearchPlan(n_rescore, n_candidates, n_probe, exact=False)
    return SearchPlan(n_rescore, MAX_RESCORE_FACTOR * n_rescore, 0, exact=False)


def _factor(query_tokens: float) -> int:
    """What the settings are multiplied by."""
    return 2 if query_tokens < _SHORT_QUERY else 1


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
    factor = _factor(query_tokens)
    entries = query_tokens * factor * settings.n_probe * n_tokens / n_centroids
    rescored = min(n_scored, n_documents) * n_tokens / n_documents
    candidates = min(_CANDIDATES_PER_RESCORED * factor * settings.n_rescore, n_documents) * n_tokens / n_documents
    per_block = _CENTROID_NS * n_centroids + _CENTROID_TOKEN_NS * candidates + _NEAR_TOKEN_NS * rescored
    return blocks * per_block + _ENTRY_NS * entries
