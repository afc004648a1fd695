"""What is written of the examples."""

from pathlib import Path

import pytest

from raycol.training import TrainConfig
from raycol.training.dataset import TrainingSet, write_training_set
from tests.conftest import write_jsonl

SCORED = [
    {"query": "rain", "documents": ["a cake", "a storm", "the sea"], "scores": [0.5, 7.0, 2.0]},
    {"query": "oven", "documents": ["a loaf", "a choir", "the sea"], "scores": [3.0, -1.0, 2.0]},
]


@pytest.mark.parametrize(
    ("objective", "first", "scores"),
    [("contrastive", ["a storm", "a loaf"], False), ("distillation", ["a cake", "a loaf"], True)],
)
def test_the_best_scored_document_is_the_positive_where_scores_are_not_learnt(
    tmp_path: Path, objective: str, first: list[str], scores: bool
) -> None:
    data = write_jsonl(tmp_path / "scored.jsonl", SCORED)
    config = TrainConfig(model="m", data=str(data), out=tmp_path / "model", objective=objective)
    write_training_set(config, tmp_path)
    rows = [TrainingSet(tmp_path)[number] for number in range(2)]
    assert [row.documents[0] for row in rows] == first
    assert [set(row.documents) for row in rows] == [set(example["documents"]) for example in SCORED]
    assert [row.scores is not None for row in rows] == [scores, scores]
