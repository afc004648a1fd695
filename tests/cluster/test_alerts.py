"""The alerts are Prometheus rules, over metrics and labels that raycol exports."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest

from raycol.serving.metrics import REGISTRY
from tests.cluster.documents import CLUSTER, keys_of, load, misspelt
from tests.conftest import PROJECT

ALERTS = CLUSTER / "alerts.yaml"
# https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/
GROUP = {"name", "interval", "limit", "query_offset", "labels", "rules"}
RULE = {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
# Added by Prometheus itself.
OWN_METRICS, OWN_LABELS = {"up"}, {"job", "instance", "le"}


def check(document: dict[str, Any]) -> None:
    """Raise ValueError if Prometheus would refuse the file, or a rule uses a metric that is not exported."""
    samples = exported()
    if set(document) != {"groups"}:
        raise ValueError(f"{set(document)}: expected groups")
    for group in document["groups"]:
        _only(group, GROUP, {"name", "rules"})
        for rule in group["rules"]:
            _only(rule, RULE, {"alert", "expr", "labels", "annotations"})
            _only(rule["labels"], {"severity"}, {"severity"})
            _only(rule["annotations"], {"summary", "runbook"}, {"summary", "runbook"})
            if "for" in rule:
                promql.parse_duration(rule["for"])
            for name, labels in asked(promql.parse(rule["expr"])):
                if name not in samples.keys() | OWN_METRICS:
                    raise ValueError(f"nobody exports {name}")
                if unknown := labels - samples.get(name, set()) - OWN_LABELS:
                    raise ValueError(f"{name} has no label {unknown}")


def _only(values: dict[str, Any], known: set[str], needed: set[str]) -> None:
    if not needed <= set(values) <= known:
        raise ValueError(f"found {set(values)}; expected {needed}, and of {known} no others")


def exported() -> dict[str, set[str]]:
    """Names and labels of the samples that a gateway exports."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    labels = {
        name: set(metric._labelnames) for metric, names in REGISTRY._collector_to_names.items() for name in names
    }
    return {
        family.name + ending: labels[family.name + ending]
        for family in REGISTRY.collect()
        for ending in endings[family.type]
    }


def asked(expr: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield the metrics of an expression, each with the labels that it is selected or aggregated by."""
    found: list[tuple[str, set[str]]] = []
    grouped: list[set[str]] = []

    def enter(node: Any) -> bool:
        if isinstance(node, promql.AggregateExpr):
            grouped.append(set(node.modifier.labels) if node.modifier else set())
        if isinstance(node, promql.VectorSelector):
            found.append((node.name, {m.name for m in node.matchers.matchers}.union(*grouped)))
        return True

    def leave(node: Any) -> bool:
        if isinstance(node, promql.AggregateExpr):
            grouped.pop()
        return True

    promql.walk(expr, enter, leave)
    yield from found


def test_every_alert_uses_exported_metrics() -> None:
    check(load(ALERTS))


def test_a_misspelt_key_is_refused_at_every_level() -> None:
    document = load(ALERTS)
    for key_path in keys_of(document):
        with pytest.raises((ValueError, KeyError)):
            check(misspelt(document, key_path))


@pytest.mark.parametrize(
    "expr",
    [
        "raycol_request_total > 1",
        "raycol_requests > 1",
        'rate(raycol_requests_total{code="500"}[5m]) > 1',
        "sum by (shrad) (rate(raycol_shard_failures_total[5m])) > 1",
        "sum(rate(raycol_requests_total[5m]) > 1",
        "rate(raycol_requests_total[5 minutes]) > 1",
        "rate(raycol_requests_total) > 1",
    ],
)
def test_a_wrong_expression_is_refused(expr: str) -> None:
    document = load(ALERTS)
    document["groups"][0]["rules"][0]["expr"] = expr
    with pytest.raises(ValueError):  # noqa: PT011
        check(document)


def test_alerts_have_unique_names_and_are_documented() -> None:
    rules = [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names) > 8
    docs = (PROJECT / "docs" / "cluster.md").read_text()
    assert [name for name in names if f"`{name}`" not in docs] == []
    anchors = {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.*)$", docs, re.M)
    }
    assert {rule["annotations"]["runbook"] for rule in rules} <= {f"docs/cluster.md#{anchor}" for anchor in anchors}


def test_paths_in_expressions_are_the_gateways() -> None:
    routes = set(re.findall(r'@api\.\w+\("([^"]+)"', (PROJECT / "raycol" / "serving" / "gateway.py").read_text()))
    assert set(re.findall(r'path="([^"]+)"', ALERTS.read_text())) <= routes


def test_labels_in_a_summary_are_labels_of_the_result() -> None:
    for rule in load(ALERTS)["groups"][0]["rules"]:
        left = set().union(*(labels for _, labels in asked(promql.parse(rule["expr"]))))
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= left
