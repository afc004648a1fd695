"""Exact scores: the protocol of scorers, and MaxSim, the reference implementation.

Shapes: Q query tokens, T tokens of a document, D dimensions, M documents of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.partition import Partition
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.query import Query


@dataclass(frozen=True, slots=True)
class Match:
    """The best-matching document token of one query token: positions of both, and what the pair adds to the score.

    With MaxSim that is their dot product.
    """

    query_token: int
    document_token: int
    score: float


# Scores documents by their ascending ordinals over all partitions, int64 [M]: float32 [M].
Score = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class Scorer(Protocol):
    """Scores documents over all their tokens. Search, exact search, rerank and explain of an index use the same one.

    A score may depend on the query and the document only, not on the other documents: hits are then the same for any
    number of threads and shards. The first stages of a search still rank by MaxSim over centroids, so a scorer that
    ranks very differently needs more rescored documents (`n_rescore`).
    """

    def score(self, query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of documents by their positions in a partition, float32 [M].

        `query.tokens_QD` has the query's tokens, `partition.embeddings(document)` those of a document.
        """

    def explain(self, query_QD: NDArray[np.float32], document_TD: NDArray[np.float32]) -> list[Match]:
        """Return the match of each query token, in order. Their scores add up to the document's score."""


@runtime_checkable
class NearScorer(Scorer, Protocol):
    """A scorer with a cheaper approximation of itself, by which a search chooses what it scores exactly."""

    def near(self, query: Query, document_set: DocumentSet) -> AbstractContextManager[Score | None]:
        """Lend a function that nearly equals `score` to one thread, for one query; None if there is none for these.

        The conditions of `score` apply to it.
        """


def exact_scores(
    query: Query, document_set: DocumentSet, scorer: Scorer, ordinals_M: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the exact scores of documents by ascending ordinals, float32 [M]."""
    parts = [scorer.score(query, partition, documents) for partition, documents in document_set.split(ordinals_M)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


class MaxSim:
    """The sum over query tokens of the best document token's dot product, by the codec's compiled kernels."""

    def score(self, query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        return partition.codec.scores(
            query.floats_BDL, query.n_tokens, partition.tokens, partition.offsets_N, documents_M
        )

    @contextmanager
    def near(self, query: Query, document_set: DocumentSet) -> Iterator[Score | None]:
        """See `NearScorer`; None if a subclass has another `score`, or if the codec has no such scores."""
        if type(self).score is not MaxSim.score:
            yield None
            return
        codec = document_set.partitions[0].codec
        with codec.scratch_pool.borrow() as scratch:
            yield codec.near_scores(
                query.floats_BDL, query.n_tokens, document_set.starts, document_set.addresses, scratch
            )

    def explain(self, query_QD: NDArray[np.float32], document_TD: NDArray[np.float32]) -> list[Match]:
        """See `Scorer`; of equal document tokens, the first matches."""
        # einsum, not BLAS: BLAS may score equal tokens differently, which would break ties at random.
        scores_QT = np.einsum("qd,td->qt", query_QD, document_TD)
        return [Match(q, int(scores_T.argmax()), float(scores_T.max())) for q, scores_T in enumerate(scores_QT)]
