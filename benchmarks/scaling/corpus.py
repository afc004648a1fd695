"""A clustered corpus of any size in parts: each is made where it is wanted, from a seed and its number alone.

Documents are `part-number`. Documents are drawn independently, so the first ones of each part are a fair sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from clustered import DIM, MEAN_TOKENS, Clustered, clustered_queries
from numpy.typing import NDArray

from raycol.index import Document
from raycol.index.codec.training import unit_vectors
from raycol.indexing.codebook import default_sample_size

PART_TOKENS = 1 << 20
# Fewer parts than shards could not be served.
_FEWEST_PARTS = 8
# A query is made of one of the first documents of a part: no more of it need be made for that.
_ASKED = 64


@dataclass(frozen=True)
class Corpus:
    """About `tokens` tokens of 128 dimensions; what is in it depends on nothing but this number and the seed."""

    tokens: int
    seed: int = 0

    @property
    def n_parts(self) -> int:
        """Parts of about a million tokens, eight at least."""
        return max(_FEWEST_PARTS, math.ceil(self.tokens / PART_TOKENS))

    @property
    def documents_a_part(self) -> int:
        """Documents of each part."""
        return max(1, round(self.tokens / MEAN_TOKENS / self.n_parts))

    @property
    def n_documents(self) -> int:
        """Documents of all parts."""
        return self.n_parts * self.documents_a_part

    def part(self, number: int) -> Iterator[Document]:
        """The documents of one part."""
        for n, (tokens_TD, _) in enumerate(Clustered(self.documents_a_part, self.seed, number)):
            yield Document(f"{number}-{n}", tokens_TD)

    def sample(self) -> NDArray[np.float16]:
        """As many tokens as the library trains a codebook of such a corpus on, [T, D]."""
        wanted = default_sample_size(self.n_documents, MEAN_TOKENS, DIM, None)
        of_each = min(self.documents_a_part, math.ceil(wanted / self.n_parts))
        documents = (document for number in range(self.n_parts) for document in islice(self.part(number), of_each))
        return np.concatenate([unit_vectors(document.embeddings) for document in documents])

    def queries(self, n: int) -> list[NDArray[np.float32]]:
        """`n` queries of 32 tokens, of documents all over the corpus."""
        parts = np.random.default_rng(self.seed + 1).integers(self.n_parts, size=n)
        asked = min(_ASKED, self.documents_a_part)
        return [
            clustered_queries(Clustered(asked, self.seed, int(part)), 1, seed)[0] for seed, part in enumerate(parts)
        ]
