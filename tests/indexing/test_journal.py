"""What an interrupted build is continued by, and what it is not."""

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
MODEL = ModelInfo(name="here", fingerprint="f")


def plan_of(path: Path, **changes: Any) -> tuple[BuildPlan, Task]:
    check = MetadataCheck(FIELDS)
    plan = plan_build(corpus_files(str(path)), FIELDS, 2, "skip", check)
    return plan, Task(FIELDS, check.finish(path), 100, 1.0, "skip", 0, **changes)


def name_of(plan: BuildPlan, task: Task, model: ModelInfo | None = MODEL, bits: int = 4, **settings: Any) -> str:
    config = IndexConfig(corpus="c", model="m", out="i", docs_per_partition=2, **settings)
    return fingerprint(config, plan, task, model, bits=bits)


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return [{"id": f"d{number}", "text": "rain", "year": number} for number in range(3)]


def test_a_build_is_continued_whoever_works_and_whatever_errors_do(records: list, tmp_path: Path) -> None:
    plan, task = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    name = name_of(plan, task)
    assert name_of(plan, replace(task, on_error="fail"), num_workers=7, on_error="fail") == name
    assert name_of(plan, task, ModelInfo(name="elsewhere", fingerprint="f")) == name


def test_a_build_of_other_settings_begins_anew(records: list, tmp_path: Path) -> None:
    plan, task = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    names = [
        name_of(plan, task),
        name_of(plan, task, None),
        name_of(plan, task, ModelInfo(name="here", fingerprint="g")),
        name_of(plan, task, bits=2),
        name_of(plan, task, dtype="bfloat16"),
        name_of(plan, task, resources={"GPU": 1}),
        name_of(plan, replace(task, base=1)),
        name_of(plan, replace(task, batch_tokens=101)),
        name_of(plan, replace(task, pool_factor=2.0)),
        name_of(plan, replace(task, split=SplitInfo(tokens=9))),
        name_of(plan, replace(task, columns={"text": "string", **task.columns})),
        name_of(plan, replace(task, fields=replace(FIELDS, embeddings="other"))),
    ]
    assert len(set(names)) == len(names)


def test_columns_that_a_repeated_record_decided_are_part_of_the_build(records: list, tmp_path: Path) -> None:
    """It is left out, so the documents are the same with and without it; their table is not."""
    plan, task = plan_of(write_jsonl(tmp_path / "a.jsonl", records))
    again, other = plan_of(write_jsonl(tmp_path / "b.jsonl", [*records, records[0] | {"year": 1.5}]))
    assert (task.columns, other.columns) == ({"year": "int64"}, {"year": "double"})
    assert plan.digest == again.digest
    assert name_of(plan, task) != name_of(again, other)
