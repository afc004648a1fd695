"""Score a part of the examples with a teacher. Plain functions, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycol.mining.cross_encoder import count_truncated, score_pairs

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
SCORED_SCHEMA = EXAMPLE_SCHEMA.append(pa.field("scores", pa.list_(pa.float32())))


def score_part(
    examples: Sequence[dict[str, Any]], teacher: CrossEncoder, batch_size: int
) -> tuple[pa.Table, Counter[str]]:
    """Return the teacher's logit for every document of every example.

    Args:
        examples: rows of `EXAMPLE_SCHEMA`.
        teacher: the cross-encoder.
        batch_size: pairs scored at once; batches mix pairs of similar length from all examples of the part.

    Returns:
        Rows of `SCORED_SCHEMA`, and counts: "rows", "pairs", "cut" (pairs longer than the teacher's maximum length),
        "positive first" (rows whose positive has the highest score).
    """
    pairs = [(example["query"], document) for example in examples for document in example["documents"]]
    scores = iter(score_pairs(teacher, pairs, batch_size).tolist())
    rows = [{**example, "scores": [next(scores) for _ in example["documents"]]} for example in examples]
    counts = Counter(rows=len(rows), pairs=len(pairs), cut=count_truncated(teacher, pairs))
    counts["positive first"] = sum(row["scores"][0] == max(row["scores"]) for row in rows)
    return pa.Table.from_pylist(rows, SCORED_SCHEMA), counts
