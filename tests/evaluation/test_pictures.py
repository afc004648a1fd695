"""The pictures of an evaluation."""

import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest

from raycol.evaluation import EvaluateConfig, Evaluation, SystemResult, mean_interval
from raycol.evaluation.pictures import draw
from raycol.evaluation.result import combine

NAMES = ("bm25", "colbert $x$ <a> \x1b検索", "run")


def evaluation(systems: tuple[str, ...], collections: tuple[str, ...], n_queries: int = 6) -> Evaluation:
    results = []
    for collection in collections:
        for number, system in enumerate(systems):
            values = {f"q{query}": (query * (number + 1) % 5) / 4 for query in range(n_queries)}
            per_query = {"nDCG@10": values, "R(rel=2)@10": {query: value / 2 for query, value in values.items()}}
            means = {name: mean_interval({collection: each}, n_resamples=50) for name, each in per_query.items()}
            results.append(
                SystemResult(collection, None, system, means, per_query, n_queries, 9, 0, number + 0.5, None)
            )
    return combine(results, systems[0], EvaluateConfig(data="x", resamples=50))


def texts(svg: bytes) -> list[str]:
    return [text for each in ElementTree.fromstring(svg).itertext() if (text := each.strip())]


@pytest.mark.slow
def test_pictures_name_what_they_show() -> None:
    pictures = draw(evaluation(NAMES, ("one", "two")), timed=NAMES[:2])
    assert list(pictures) == ["metrics.svg", "queries.svg", "cost.svg"]
    metrics, queries, cost = (texts(svg) for svg in pictures.values())
    shown = "colbert $x$ <a> \\x1b検索"
    assert {"one", "two", "mean of 2 collections", "bm25", shown, "run", "nDCG@10", "R(rel=2)@10"} <= {*metrics}
    assert queries.count("bm25: nDCG@10") == 4
    assert {"one", "two", shown, "run"} <= {*queries}
    assert {"R(rel=2)@10", "bm25", shown, "one", "two"} <= {*cost}
    assert "run" not in cost, "reading a run file says nothing about its cost"


@pytest.mark.slow
def test_the_same_result_gives_the_same_bytes() -> None:
    """With other settings of matplotlib, too."""
    result = evaluation(NAMES[:2], ("one",))
    first = draw(result, NAMES)
    with mpl.rc_context({"svg.hashsalt": None, "axes.facecolor": "black", "font.size": 20}):
        assert draw(result, NAMES) == first
    assert all(b"<dc:date>" not in svg for svg in first.values())


@pytest.mark.parametrize(
    ("systems", "timed", "names"),
    [
        (("bm25",), ("bm25",), ["metrics.svg", "cost.svg"]),
        (("run",), (), ["metrics.svg"]),
    ],
)
def test_one_system_is_compared_with_none(systems: tuple[str, ...], timed: tuple[str, ...], names: list[str]) -> None:
    """One query has no interval."""
    assert list(draw(evaluation(systems, ("one",), n_queries=1), timed)) == names
