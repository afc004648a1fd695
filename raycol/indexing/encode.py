"""The work on one partition, as plain functions: read, encode, quantise, write. No Ray.

A partition's embeddings never leave the process that made them: what goes on to the disk is quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.data import Passage
from raycol.index import Document
from raycol.index.codebook import Codebook
from raycol.index.columns import Columns, ColumnType
from raycol.index.manifest import PartitionInfo
from raycol.index.partition_writer import write_partition
from raycol.index.pooling import token_pooling
from raycol.index.storage import Store
from raycol.indexing.plan import Slice, read_slice

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

TEXT_COLUMNS: dict[str, ColumnType] = {"title": "string", "text": "string"}

# Documents of a partition are encoded in groups of this many, sorted by length within a group: memory is
# bounded by a group's embeddings, and batches are the same whoever encodes the partition.
_GROUP = 1024


def encode_passages(
    encoder: MultiVectorEncoder, passages: Sequence[Passage], batch_size: int, pool_factor: float = 1
) -> Iterator[tuple[Passage, NDArray[np.float32]]]:
    """Yield each passage with its embeddings, float32 [n_tokens, dim], pooled if asked."""
    pool = token_pooling(pool_factor)
    for start in range(0, len(passages), _GROUP):
        group = passages[start : start + _GROUP]
        embeddings = encoder.encode_document(
            [passage.content for passage in group],
            batch_size=batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        for passage, tokens_TD in zip(group, embeddings, strict=True):
            yield passage, pool(tokens_TD) if pool else tokens_TD


def encode_sample(
    encoder: MultiVectorEncoder, part: Slice, positions: Sequence[int], batch_size: int, pool_factor: float
) -> NDArray[np.float16]:
    """The tokens of the sampled documents of a partition, float16 [T, dim]."""
    wanted = set(positions)
    passages = [passage for position, passage in enumerate(read_slice(part)) if position in wanted]
    tokens = [embeddings for _, embeddings in encode_passages(encoder, passages, batch_size, pool_factor)]
    return np.concatenate(tokens).astype(np.float16)


def build_partition(
    encoder: MultiVectorEncoder,
    codebook: Codebook,
    store: Store,
    part: Slice,
    *,
    batch_size: int,
    pool_factor: float,
    columns: Columns,
    base: int,
) -> PartitionInfo:
    """Encode and quantise a slice of the corpus into a partition of an index.

    Of title and text, what `columns` has is stored. `base` is the version that the writer started from.
    """

    def documents() -> Iterator[Document]:
        for passage, embeddings in encode_passages(encoder, read_slice(part), batch_size, pool_factor):
            texts = {"title": passage.title, "text": passage.text}
            yield Document(passage.id, embeddings, {name: text for name, text in texts.items() if name in columns})

    return write_partition(store, documents(), codebook, columns, base)
