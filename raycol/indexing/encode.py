"""The work on one partition, as plain functions: read, encode, quantise, write. No Ray.

A partition's embeddings never leave the process that made them: what goes on to the disk is quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.data import Passage
from raycol.index import Document
from raycol.index.codebook import Codebook
from raycol.index.document import ColumnType
from raycol.index.manifest import PartitionInfo
from raycol.index.partition import write_partition
from raycol.indexing.plan import Slice, read_slice

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

TEXT_COLUMNS: dict[str, ColumnType] = {"title": "string", "text": "string"}

# Documents of a partition are encoded in groups of this many, sorted by length within a group: memory is
# bounded by a group's embeddings, and batches are the same whoever encodes the partition.
_GROUP = 1024


def encode_passages(
    encoder: MultiVectorEncoder, passages: Sequence[Passage], batch_size: int
) -> Iterator[tuple[Passage, NDArray[np.float32]]]:
    """Yield each passage with its embeddings, float32 [n_tokens, dim]."""
    for start in range(0, len(passages), _GROUP):
        group = passages[start : start + _GROUP]
        embeddings = encoder.encode_document(
            [passage.content for passage in group],
            batch_size=batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        yield from zip(group, embeddings, strict=True)


def encode_sample(
    encoder: MultiVectorEncoder, part: Slice, positions: Sequence[int], batch_size: int
) -> NDArray[np.float16]:
    """The tokens of the sampled documents of a partition, float16 [T, dim]."""
    wanted = set(positions)
    passages = [passage for position, passage in enumerate(read_slice(part)) if position in wanted]
    tokens = [embeddings for _, embeddings in encode_passages(encoder, passages, batch_size)]
    return np.concatenate(tokens).astype(np.float16)


def build_partition(
    encoder: MultiVectorEncoder,
    codebook: Codebook,
    root: Path,
    part: Slice,
    *,
    batch_size: int,
    store_text: bool,
) -> PartitionInfo:
    """Encode and quantise a slice of the corpus into a partition of the index at `root`."""

    def documents() -> Iterator[Document]:
        for passage, embeddings in encode_passages(encoder, read_slice(part), batch_size):
            metadata = {"title": passage.title, "text": passage.text} if store_text else {}
            yield Document(passage.id, embeddings, metadata)

    return write_partition(root, documents(), codebook, TEXT_COLUMNS if store_text else {})
