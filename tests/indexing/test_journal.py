"""Fingerprints: which commands continue an interrupted build."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycol.data import Fields, corpus_files
from raycol.index.format.manifest import ModelInfo, SplitInfo
from raycol.indexing import IndexConfig
from raycol.indexing.journal import fingerprint
from raycol.indexing.metadata import MetadataCheck
from raycol.indexing.part import Task
from raycol.indexing.plan import BuildPlan, plan_build
from tests.conftest import write_jsonl

FIELDS = Fields(metadata={"year": ""})
MODEL = ModelInfo(name="one", fingerprint="f")


def plan_of(path: Path, **changes: Any) -> tuple[BuildPlan, Task]:
    check = MetadataCheck(FIELDS)
    plan = plan_build(corpus_files(str(path)), FIELDS, 2, "skip", check)
    return plan, Task(FIELDS, check.finish(path), 100, 1.0, "skip", 0, **changes)


def fingerprint_of(
    plan: BuildPlan, task: Task, model: ModelInfo | None = MODEL, bits: int = 4, **settings: Any
) -> str:
    config = IndexConfig(corpus="c", model="m", out="i", docs_per_partition=2, **settings)
    return fingerprint(config, plan, task, model, bits=bits)


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return [{"id": f"d{number}", "text": "rain", "year": number} for number in range(3)]


def test_workers_and_error_handling_do_not_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    plan, task = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    expected = fingerprint_of(plan, task)
    assert fingerprint_of(plan, replace(task, on_error="fail"), num_workers=7, on_error="fail") == expected
    assert fingerprint_of(plan, task, ModelInfo(name="other", fingerprint="f")) == expected


def test_other_settings_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    plan, task = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    fingerprints = [
        fingerprint_of(plan, task),
        fingerprint_of(plan, task, None),
        fingerprint_of(plan, task, ModelInfo(name="one", fingerprint="g")),
        fingerprint_of(plan, task, bits=2),
        fingerprint_of(plan, task, dtype="bfloat16"),
        fingerprint_of(plan, task, resources={"GPU": 1}),
        fingerprint_of(plan, replace(task, base=1)),
        fingerprint_of(plan, replace(task, batch_tokens=101)),
        fingerprint_of(plan, replace(task, pool_factor=2.0)),
        fingerprint_of(plan, replace(task, split=SplitInfo(tokens=9))),
        fingerprint_of(plan, replace(task, columns={"text": "string", **task.columns})),
        fingerprint_of(plan, replace(task, fields=replace(FIELDS, embeddings="other"))),
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_columns_inferred_from_a_skipped_duplicate_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    """The documents are the same with and without the duplicate; the columns of their table are not."""
    plan, task = plan_of(write_jsonl(tmp_path / "a.jsonl", records))
    other_plan, other_task = plan_of(write_jsonl(tmp_path / "b.jsonl", [*records, records[0] | {"year": 1.5}]))
    assert (task.columns, other_task.columns) == ({"year": "int64"}, {"year": "double"})
    assert plan.digest == other_plan.digest
    assert fingerprint_of(plan, task) != fingerprint_of(other_plan, other_task)
