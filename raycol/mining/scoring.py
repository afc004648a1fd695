"""Score a part of the examples with teachers. Plain functions, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.mining.config import Normalization
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
KNOWN_SCHEMA = EXAMPLE_SCHEMA.append(pa.field("known", pa.list_(pa.list_(pa.float32()))))
"""With the known scores [teacher][document], null for those to compute."""
SCORED_SCHEMA = EXAMPLE_SCHEMA.append(pa.field("scores", pa.list_(pa.float32())))
COMBINED_SCHEMA = SCORED_SCHEMA.append(pa.field("teacher_scores", pa.list_(pa.list_(pa.float32()))))
"""With the scores of each teacher [teacher][document], as it computes them."""


@dataclass(frozen=True)
class Combination:
    """How the scores of teachers become one score of each document.

    Args:
        weights: of the teachers.
        normalization: of each teacher's scores, over the documents of an example.
    """

    weights: tuple[float, ...]
    normalization: Normalization

    @property
    def is_raw(self) -> bool:
        """Whether the scores are those of a teacher, unchanged."""
        return len(self.weights) == 1 and self.normalization == "none"

    def __call__(self, scores_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weighted mean of the normalized scores, float32 [documents], of scores [teachers, documents]."""
        if not self.is_raw:
            normalized_TD = normalize_scores(scores_TD.astype(np.float64), self.normalization)
            scores_TD = np.average(normalized_TD, axis=0, weights=self.weights).astype(np.float32)[None]
        combined_D: NDArray[np.float32] = scores_TD[0]
        return combined_D


def normalize_scores(scores_TD: NDArray[np.float64], how: Normalization) -> NDArray[np.float64]:
    """Return each row with mean 0 and variance 1 (z-score) or from 0 to 1 (min-max); a row of equal scores as 0."""
    if how == "none":
        return scores_TD
    range_T = np.ptp(scores_TD, axis=1)
    is_score = how == "z-score"
    centre_T, spread_T = (
        (scores_TD.mean(axis=1), scores_TD.std(axis=1)) if is_score else (scores_TD.min(axis=1), range_T)
    )
    is_flat_T = range_T == 0
    normalized_TD = (scores_TD - centre_T[:, None]) / np.where(is_flat_T, 1, spread_T)[:, None]
    return np.where(is_flat_T[:, None], 0, normalized_TD)


def score_part(
    examples: Sequence[dict[str, Any]],
    teachers: Sequence[Callable[[], CrossEncoder]],
    combination: Combination,
    batch_size: int,
) -> tuple[pa.Table, Counter[str]]:
    """Return a score of every document of every example.

    Args:
        examples: rows of `EXAMPLE_SCHEMA` or `KNOWN_SCHEMA`.
        teachers: open the teachers; a teacher all of whose scores are known is not opened.
        combination: how their scores become one.
        batch_size: pairs scored at once; batches mix pairs of similar length from all examples of the part.

    Returns:
        Rows of `SCORED_SCHEMA` or, if the scores are not those of a teacher, `COMBINED_SCHEMA`; and counts: "rows",
        "pairs", "reused" (scores that were known), "cut" (pairs longer than a teacher's maximum length), "positive
        first" (rows whose positive has the highest score).
    """
    counts = Counter(rows=len(examples), pairs=sum(len(example["documents"]) for example in examples))
    by_teacher = [_score(number, teacher, examples, batch_size, counts) for number, teacher in enumerate(teachers)]
    rows = []
    for example, *scores in zip(examples, *by_teacher, strict=True):
        combined = combination(np.array(scores, np.float32)).tolist()
        rows.append({**example, "scores": combined, "teacher_scores": scores})
    counts["positive first"] = sum(row["scores"][0] == max(row["scores"]) for row in rows)
    return pa.Table.from_pylist(rows, SCORED_SCHEMA if combination.is_raw else COMBINED_SCHEMA), counts


def _score(
    number: int,
    open_teacher: Callable[[], CrossEncoder],
    examples: Sequence[dict[str, Any]],
    batch_size: int,
    counts: Counter[str],
) -> list[list[float]]:
    """Scores of one teacher [example][document]; computes those that are not known."""
    known = [
        example["known"][number] if "known" in example else [None] * len(example["documents"]) for example in examples
    ]
    pairs = [
        (example["query"], document)
        for example, scores in zip(examples, known, strict=True)
        for document, score in zip(example["documents"], scores, strict=True)
        if score is None
    ]
    if reused := sum(map(len, known)) - len(pairs):
        counts["reused"] += reused
    computed: Iterator[float] = iter(())
    if pairs:
        teacher = open_teacher()
        counts["cut"] += count_truncated(teacher, pairs)
        computed = iter(score_pairs(teacher, pairs, batch_size).tolist())
    return [[next(computed) if score is None else score for score in scores] for scores in known]
