"""Fingerprints: which commands continue an interrupted build."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycol.data import Fields, corpus_files
from raycol.index.format.manifest import ModelInfo, SplitInfo
from raycol.indexing import IndexConfig
from raycol.indexing.metadata import MetadataCheck
from raycol.indexing.part import PartSettings
from raycol.indexing.partitions import build_job
from raycol.indexing.plan import BuildPlan, plan_build
from raycol.storage import open_store
from tests.conftest import write_jsonl

FIELDS = Fields(metadata={"year": ""})
MODEL = ModelInfo(name="one", fingerprint="f")


def plan_of(path: Path, **changes: Any) -> tuple[BuildPlan, PartSettings]:
    check = MetadataCheck(FIELDS)
    plan = plan_build(corpus_files(str(path)), FIELDS, 2, "skip", check)
    return plan, PartSettings(FIELDS, check.finish(path), 100, 1.0, "skip", 0, **changes)


def fingerprint_of(
    plan: BuildPlan, settings: PartSettings, model: ModelInfo | None = MODEL, bits: int = 4, **changes: Any
) -> str:
    config = IndexConfig(corpus="c", model="m", out="i", docs_per_partition=2, **changes)
    return build_job(open_store("i"), config, plan, settings, model, bits=bits).folder


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return [{"id": f"d{number}", "text": "rain", "year": number} for number in range(3)]


def test_workers_and_error_handling_do_not_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    plan, settings = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    expected = fingerprint_of(plan, settings)
    assert fingerprint_of(plan, replace(settings, on_error="fail"), num_workers=7, on_error="fail") == expected
    assert fingerprint_of(plan, settings, ModelInfo(name="other", fingerprint="f")) == expected


def test_other_settings_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    plan, settings = plan_of(write_jsonl(tmp_path / "c.jsonl", records))
    fingerprints = [
        fingerprint_of(plan, settings),
        fingerprint_of(plan, settings, None),
        fingerprint_of(plan, settings, ModelInfo(name="one", fingerprint="g")),
        fingerprint_of(plan, settings, bits=2),
        fingerprint_of(plan, settings, dtype="bfloat16"),
        fingerprint_of(plan, settings, resources={"GPU": 1}),
        fingerprint_of(plan, replace(settings, base=1)),
        fingerprint_of(plan, replace(settings, batch_tokens=101)),
        fingerprint_of(plan, replace(settings, pool_factor=2.0)),
        fingerprint_of(plan, replace(settings, split=SplitInfo(tokens=9))),
        fingerprint_of(plan, replace(settings, columns={"text": "string", **settings.columns})),
        fingerprint_of(plan, replace(settings, fields=replace(FIELDS, embeddings="other"))),
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_columns_inferred_from_a_skipped_duplicate_change_the_fingerprint(records: list, tmp_path: Path) -> None:
    """The documents are the same with and without the duplicate; the columns of their table are not."""
    plan, settings = plan_of(write_jsonl(tmp_path / "a.jsonl", records))
    other_plan, other_settings = plan_of(write_jsonl(tmp_path / "b.jsonl", [*records, records[0] | {"year": 1.5}]))
    assert (settings.columns, other_settings.columns) == ({"year": "int64"}, {"year": "double"})
    assert plan.digest == other_plan.digest
    assert fingerprint_of(plan, settings) != fingerprint_of(other_plan, other_settings)
