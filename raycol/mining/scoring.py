"""Scoring a part of the examples with a teacher, as plain functions. No Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycol.mining.cross_encoder import count_cut, score_pairs

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

EXAMPLE_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "query": pa.string(),
        "document_ids": pa.list_(pa.string()),
        "documents": pa.list_(pa.string()),
    }
)
TAUGHT_SCHEMA = EXAMPLE_SCHEMA.append(pa.field("scores", pa.list_(pa.float32())))


def score_part(
    examples: Sequence[dict[str, Any]], teacher: CrossEncoder, batch_size: int
) -> tuple[pa.Table, Counter[str]]:
    """The teacher's logits for every document of every example.

    Args:
        examples: rows of `EXAMPLE_SCHEMA`.
        teacher: scores pairs.
        batch_size: pairs at once; they are of similar length, from all examples of the part.

    Returns:
        Rows of `TAUGHT_SCHEMA`, and counts: rows, pairs, pairs that are cut because the teacher does not read more,
        positives that no document beats.
    """
    pairs = [(example["query"], document) for example in examples for document in example["documents"]]
    scores = iter(score_pairs(teacher, pairs, batch_size).tolist())
    rows = [{**example, "scores": [next(scores) for _ in example["documents"]]} for example in examples]
    counts = Counter(rows=len(rows), pairs=len(pairs), cut=count_cut(teacher, pairs))
    counts["positive first"] = sum(row["scores"][0] == max(row["scores"]) for row in rows)
    return pa.Table.from_pylist(rows, TAUGHT_SCHEMA), counts
