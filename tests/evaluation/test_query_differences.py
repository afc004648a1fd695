"""The queries that differ most, and their hits."""

from raycol.data.collection import Collection
from raycol.evaluation.query_differences import best_hits, query_differences
from raycol.evaluation.result import JudgedHit, SystemResult


def test_the_best_hits_are_in_the_metrics_order() -> None:
    """By descending score, equal scores by descending id, in single precision; a collection's order may differ."""
    collection = Collection("x", (), {"q": "", "r": "", "none": ""}, {})
    hits = [[("a", 2.0), ("b", 1.0), ("c", 1.0 - 1e-12), ("d", 1.0), ("e", 0.5)], [("a", 1.0)], []]
    assert best_hits(collection, hits) == {
        "q": [("a", 2.0), ("d", 1.0), ("c", 1.0 - 1e-12)],
        "r": [("a", 1.0)],
        "none": [],
    }


def test_the_queries_that_differ_most_come_with_their_hits() -> None:
    queries = {f"q{number:02d}": f"text {number}" for number in range(12)}
    qrels = {query: {f"d{number:02d}": number % 3 for number in range(40)} for query in queries}
    collection = Collection("x", (), queries, qrels, name="one")
    values = {
        "base": dict.fromkeys(queries, 0.5),
        "same": dict.fromkeys(queries, 0.5),
        "other": {query: 0.5 - number / 24 for number, query in enumerate(queries)},
    }
    results = [
        SystemResult("one", None, system, {}, {"AP": each, "P@1": {}}, 12, 40, 0, 1.0, None)
        for system, each in values.items()
    ]
    best = {system: {query: [("d01", 2.0), ("x", 1.0)] for query in queries} for system in values}
    found = query_differences(collection, results, "base", best)
    assert [each.query for each in found] == [f"q{number:02d}" for number in range(11, 1, -1)]
    first = found[0]
    assert (first.collection, first.system, first.metric, first.text) == ("one", "other", "AP", "text 11")
    assert (first.baseline_value, first.value) == (0.5, values["other"]["q11"])
    assert first.n_relevant == 26, "grades 1 and 2 of 40"
    assert first.relevant == {f"d{number:02d}": 2 for number in range(2, 30, 3)}
    assert first.hits == first.baseline_hits == [JudgedHit("d01", 2.0, 1), JudgedHit("x", 1.0, None)]
