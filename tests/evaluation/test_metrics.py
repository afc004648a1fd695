"""Metrics equal trec_eval's own, which pytrec_eval wraps, and the formulas written out."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from raycol.data.beir import read_qrels
from raycol.errors import InputError
from raycol.evaluation.metrics import DEFAULT_METRICS, DEPTH, depth_of, parse_metrics, score_queries, score_run
from raycol.evaluation.trec import ranking
from tests.conftest import DATA

IDS = [*"abcdefgh", "B", "10", "9", "é", "\U0001f600", "\uffff"]
# Few values, so that scores tie; two pairs differ in double precision only.
SCORES = [0.0, 1.0, 1.0 + 1e-12, -3.0, 0.1, 0.1 + 1e-10, 2.5, 1e300, 1e301]
TREC = {
    "nDCG@3": "ndcg_cut_3", "nDCG": "ndcg", "R@2": "recall_2", "P@5": "P_5", "AP": "map", "AP@4": "map_cut_4",
    "RR": "recip_rank", "Rprec": "Rprec", "Bpref": "bpref", "Success@1": "success_1",
}  # fmt: skip

documents = st.sampled_from(IDS)
# Every query has a relevant document, without which nDCG is not defined; grades may be negative.
judged = st.tuples(
    st.dictionaries(documents, st.integers(-2, 3), max_size=8), documents, st.integers(1, 3)
).map(lambda drawn: {**drawn[0], drawn[1]: drawn[2]})  # fmt: skip
qrels_of = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), judged, min_size=1)
runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "other"]), st.dictionaries(documents, st.sampled_from(SCORES), max_size=12)
)


@given(qrels_of, runs)
def test_metrics_equal_trec_evals(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> None:
    """With ties, queries without hits or judgements, unjudged and missing documents, negative grades."""
    values = score_queries(qrels, run, parse_metrics(TREC))
    # trec_eval counts negative grades as unjudged, but given them, or a query without hits, it corrupts its memory.
    judged = {
        query_id: {id_: grade for id_, grade in grades.items() if grade >= 0} for query_id, grades in qrels.items()
    }
    hits = {query_id: scores for query_id, scores in run.items() if scores and query_id in qrels}
    expected = pytrec_eval.RelevanceEvaluator(judged, set(TREC.values())).evaluate(hits)
    for name, trec_name in TREC.items():
        assert values[name] == {
            query_id: expected[query_id][trec_name] if run.get(query_id) else 0.0 for query_id in qrels
        }, name


@given(qrels_of, runs)
def test_metrics_equal_their_formulas(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> None:
    """Also those that trec_eval does not have, in its order."""
    values = score_queries(qrels, run, parse_metrics(["RR@3", "Judged@4", "nDCG@5", "R(rel=2)@5"]))
    for query_id, grades in qrels.items():
        ranked = ranking(run.get(query_id, {}))
        first = next((rank for rank, id_ in enumerate(ranked[:3], 1) if grades.get(id_, 0) > 0), math.inf)
        assert values["RR@3"][query_id] == 1 / first
        top = ranked[:4]
        assert values["Judged@4"][query_id] == (sum(id_ in grades for id_ in top) / len(top) if top else 0)
        ideal = _dcg(sorted(grades.values(), reverse=True)[:5])
        dcg = _dcg([grades.get(id_, 0) for id_ in ranked[:5]])
        assert values["nDCG@5"][query_id] == pytest.approx(dcg / ideal)
        relevant = {id_ for id_, grade in grades.items() if grade >= 2}
        recall = len(relevant & {*ranked[:5]}) / len(relevant) if relevant else 0
        assert values["R(rel=2)@5"][query_id] == pytest.approx(recall)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cranfield", "scifact", "debdesc", "medquad", "squad"])
def test_metrics_equal_trec_evals_on_the_shared_collections(name: str) -> None:
    """A run with the judged and other documents in random order, in which half of the scores tie."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is missing (RAYCOL_DATA)")
    qrels = read_qrels(DATA / name / "qrels" / "test.tsv")
    rng = np.random.default_rng(0)
    run = {
        query_id: {id_: float(rng.integers(10)) for id_ in (*grades, *(f"unjudged{n}" for n in range(9)))}
        for query_id, grades in list(qrels.items())[1:300]
    }
    values = score_queries(qrels, run, parse_metrics(TREC))
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(run)
    for metric, trec_name in TREC.items():
        assert values[metric] == {
            query_id: expected[query_id][trec_name] if query_id in run else 0.0 for query_id in qrels
        }, metric
    first = score_queries(qrels, run, parse_metrics(["RR@3"]))["RR@3"]
    assert first == {query_id: value if value >= 1 / 3 else 0 for query_id, value in values["RR"].items()}


def _dcg(grades: list[int]) -> float:
    return sum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def test_ties_are_broken_as_trec_eval_does() -> None:
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 1.0, "b": 1.0, "c": 1.0 + 1e-12}}
    assert ranking(run["q"]) == ["c", "b", "a"]
    assert score_run(qrels, run)["RR@10"] == 1 / 3
    assert score_run(qrels, run, parse_metrics(["RR", "RR@2"])) == {"RR": 1 / 3, "RR@2": 0}


def test_means_are_over_the_judged_queries() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {}, "q4": {"a": 0}}
    run = {"q1": {"a": 1.0}, "unjudged": {"a": 1.0}, "q3": {"a": 1.0}, "q4": {"a": 1.0}}
    qrels["q5"], run["q5"] = {"a": -2}, {"a": 1.0}
    assert score_queries(qrels, run, parse_metrics(["Judged@10"]))["Judged@10"]["q5"] == 1
    del qrels["q5"]
    assert score_queries(qrels, run)["RR@10"] == {"q1": 1, "q2": 0, "q3": 0, "q4": 0}
    assert score_run(qrels, run) == dict.fromkeys(DEFAULT_METRICS, 0.25)
    assert score_run(qrels, {}) == dict.fromkeys(DEFAULT_METRICS, 0)
    assert score_run({}, run) == dict.fromkeys(DEFAULT_METRICS, 0)


def test_names_are_those_of_ir_measures() -> None:
    names = ["MRR@10", "RR@10", " P(rel=2)@5 ", "nDCG(gains={1:1,2:3})@10", "nDCG(cutoff=5)", "IPrec@0.1", "MAP"]
    assert list(parse_metrics(names)) == [
        "RR@10", "P(rel=2)@5", "nDCG(gains={2:3})@10", "nDCG@5", "IPrec@0.1", "AP"
    ]  # fmt: skip
    assert parse_metrics(DEFAULT_METRICS) == DEFAULT_METRICS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", "no such metric; did you mean nDCG@10?"),
        ("recal@10", "no such metric; did you mean R@10?"),
        ("quality", "no such metric; expected a name of ir-measures"),
        ("", "no such metric"),
        ("nDCG@", "no such metric"),
        ("nDCG@10\n@20", "invalid parameters"),
        ("nDCG@0", "invalid parameters; nDCG takes cutoff, dcg"),
        ("nDCG@-1", "invalid parameters"),
        ("nDCG@True", "invalid parameters"),
        ("nDCG@ten", "invalid parameters"),
        ("R@1e3", "invalid parameters"),
        ("R@99999999999", "invalid parameters"),
        ("R", "invalid parameters"),
        ("P(foo=1)@10", "invalid parameters"),
        ("P(2)@10", "invalid parameters"),
        ("P()(rel=2)@10", "invalid parameters"),
        ("P(**{'rel':2})@10", "invalid parameters"),
        ("P(rel=open('x'))@10", "invalid parameters"),
        ("MPA(rel=2)@5", "no such metric; did you mean AP(rel=2)@5?"),
        ("P(rel=1", "no such metric"),
        ("IPrec@" + "(" * 9000, "invalid parameters"),
        ("alpha_nDCG@10", "cannot be computed"),
        ("ERR@10", "cannot be computed"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_metrics([name])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_depth_is_the_largest_cutoff() -> None:
    assert DEPTH == 100
    assert depth_of(parse_metrics(["nDCG@10", "RR@20"])) == 20
    assert depth_of(parse_metrics(["nDCG@10", "AP"])) == 1000
    assert depth_of(parse_metrics(["nDCG(judged_only=True)@10"])) == 1000
    assert depth_of(parse_metrics(["R@5000"])) == 5000
    assert depth_of(parse_metrics(["IPrec@0.1"])) == 1000
