"""Clustered synthetic embeddings, reproducible from a seed on every machine.

There are 4,096 random unit centres and 300 topics, each a pool of 96 centres. A document has one topic and 30 to 90
tokens: 80 % use centre floor(96 u^2) of the pool for a uniform u, so that some centres are frequent; the others use
any centre. A token is normalise(0.75 centre + 0.35 context + 0.56 noise), with a random unit context for
each document and random unit noise for each token.

A corpus can be generated in parts, each from the seed and its number only (`Clustered(..., part=3)`): parts share
centres and topics, and a shorter part is a prefix of a longer one.

A query takes 32 tokens of one document, with repeats. 24 of them become normalise(token + 0.75 noise); the last 8
become normalise(0.8 centre + 0.6 noise), the centre being the token's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from collection import Collection
from numpy.typing import NDArray

DIM = 128
MEAN_TOKENS = 60

_CENTRES = 4096
_TOPICS = 300
_POOL = 96
_QUERY_TOKENS = 32
_QUERY_FROM_TOKENS = 24


class Clustered:
    """Documents, one by one: pairs of tokens float32 [T, 128] and the numbers of their centres int64 [T]."""

    def __init__(self, n_documents: int, seed: int = 0, part: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.centres_CD = _unit(rng.standard_normal((_CENTRES, DIM))).astype(np.float32)
        self._pools = np.stack([rng.choice(_CENTRES, _POOL, replace=False) for _ in range(_TOPICS)])
        if part is not None:
            rng = np.random.default_rng((seed, part))
        self.lengths_N = rng.integers(30, 91, n_documents)
        if part is not None:  # the documents do not depend on how many there are
            rng = np.random.default_rng((seed, part, 1))
        self._state = rng.bit_generator.state

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        rng = np.random.default_rng()
        rng.bit_generator.state = self._state
        for n_tokens in self.lengths_N:
            pool = self._pools[rng.integers(_TOPICS)]
            of_topic_T = pool[np.floor(_POOL * rng.random(n_tokens) ** 2).astype(int)]
            off_topic_T = rng.random(n_tokens) < 0.2
            centre_T = np.where(off_topic_T, rng.integers(0, _CENTRES, n_tokens), of_topic_T)
            context_D = _unit(rng.standard_normal(DIM, dtype=np.float32))
            noise_TD = _unit(rng.standard_normal((n_tokens, DIM), dtype=np.float32))
            yield _unit(0.75 * self.centres_CD[centre_T] + 0.35 * context_D + 0.56 * noise_TD), centre_T


def clustered(n_documents: int, n_queries: int, seed: int = 0) -> Collection:
    """The documents in one array, and queries."""
    source = Clustered(n_documents, seed)
    ends_N = np.cumsum(source.lengths_N)
    tokens_TD = np.empty((ends_N[-1], DIM), dtype=np.float32)
    centre_T = np.empty(ends_N[-1], dtype=np.int64)
    for end, (document_TD, document_centre_T) in zip(ends_N, source, strict=True):
        tokens_TD[end - len(document_TD) : end] = document_TD
        centre_T[end - len(document_TD) : end] = document_centre_T
    starts_N = ends_N - source.lengths_N

    def tokens_of(document: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        place = slice(starts_N[document], ends_N[document])
        return tokens_TD[place], centre_T[place]

    return Collection(tokens_TD, source.lengths_N, _queries(source, n_queries, seed + 1, tokens_of))


def clustered_queries(source: Clustered, n_queries: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """The queries of `clustered`, without generating its documents."""
    asked: set[int] = set()
    empty = np.zeros((1, DIM), dtype=np.float32), np.zeros(1, dtype=np.int64)

    def remember(document: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        asked.add(document)
        n_tokens = source.lengths_N[document]
        return np.repeat(empty[0], n_tokens, axis=0), np.repeat(empty[1], n_tokens)

    _queries(source, n_queries, seed + 1, remember)
    kept = {number: document for number, document in enumerate(source) if number in asked}
    return _queries(source, n_queries, seed + 1, kept.__getitem__)


def _queries(
    source: Clustered,
    n_queries: int,
    seed: int,
    tokens_of: Callable[[int], tuple[NDArray[np.float32], NDArray[np.int64]]],
) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(n_queries):
        document = int(rng.integers(len(source.lengths_N)))
        tokens_TD, centre_T = tokens_of(document)
        chosen_Q = rng.integers(0, source.lengths_N[document], _QUERY_TOKENS)
        near_tokens_QD = _unit(tokens_TD[chosen_Q] + 0.75 * _noise(rng))
        near_centres_QD = _unit(0.8 * source.centres_CD[centre_T[chosen_Q]] + 0.6 * _noise(rng))
        queries.append(np.concatenate([near_tokens_QD[:_QUERY_FROM_TOKENS], near_centres_QD[_QUERY_FROM_TOKENS:]]))
    return queries


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return _unit(rng.standard_normal((_QUERY_TOKENS, DIM), dtype=np.float32))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
