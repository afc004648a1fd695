"""The dashboard queries exported metrics."""

import json
import re
from pathlib import Path

from raycol.serving.metrics import REGISTRY
from raycol.training.metrics import NAMES

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"


def test_every_panel_uses_exported_metrics() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    have = {sample for family in REGISTRY.collect() for sample in _names(family)}
    of_trainings = {f"ray_{name}" for name in NAMES.values()}
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"\b(?:ray_)?raycol_\w+", target["expr"]))
    assert asked <= have | of_trainings
    # Every metric has a panel.
    families = {family.name for family in REGISTRY.collect()}
    assert {name for name in families if not any(found.startswith(name) for found in asked)} == set()
    assert of_trainings <= asked


def _names(family) -> set[str]:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + ending for ending in endings[family.type]}
