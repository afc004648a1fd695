"""`raycol mine` with systems besides the index: their settings, the mixture, and what they never return."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data.examples import ExampleSource, read_examples
from raycol.errors import InputError
from raycol.evaluation.runs import search_bm25
from raycol.evaluation.trec import write_run
from raycol.mining import MineConfig
from raycol.mining.candidates import next_system
from raycol.mining.queries import from_row, group_queries, to_row
from raycol.mining.systems import is_system
from raycol.mining.workers import MiningWorker
from tests.conftest import write_jsonl
from tests.mining.conftest import contents, passages_of
from tests.mining.in_process import EXECUTOR, RecordingExecutor
from tests.mining.test_mine import mine, rows_of


def config(index: str = "i", system: str | Sequence[str] = (), **settings: Any) -> MineConfig:
    return MineConfig.load(overrides={"index": index, "data": "d", "out": "o", "system": system, **settings})


def test_systems_take_settings_of_their_own() -> None:
    mined = config(
        "i",
        ("bm25,weight=2.5,to_rank=20,margin=1", "index:other,effort=fast,max_score=-3", "b=bm25 > exact:m,weight=3"),
        to_rank=50,
        relative_margin=0.1,
    ).systems
    assert [(each.name, each.weight, each.to_rank) for each in mined] == [
        ("index", 1, 50), ("bm25", 2.5, 20), ("index:other,effort=fast", 1, 50), ("b", 3, 50),
    ]  # fmt: skip
    assert [each.rules.margin for each in mined] == [None, 1, None, None]
    assert [each.rules.max_score for each in mined] == [None, None, -3, None]
    assert {each.rules.relative_margin for each in mined} == {0.1}
    assert [each.system is None for each in mined] == [True, False, False, False]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bm25", True), ("bm25,weight=2", True), ("bm25 > exact:m", True), ("run:/a/b.trec", True), ("single:m", True),
        ("index:i", True), ("b=bm25", True), ("r=run:/a.trec", True),
        ("bm25s", False), ("./bm25", False), ("s3://bucket/index", False), ("/run/index", False),
        ("http://host", False),
    ],
)  # fmt: skip
def test_an_index_is_told_from_another_system(value: str, expected: bool) -> None:
    assert is_system(value) == expected
    assert config(value).mines_index != expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"system": "bm26"}, "'bm26' is not a system"),
        ({"system": "bm25,wait=2"}, "bm25 has no setting 'wait'"),
        ({"system": "bm25,weight=0"}, "weight is '0'; expected a number above 0"),
        ({"system": "bm25,to_rank=1.5"}, "to_rank is '1.5'; expected a positive whole number"),
        ({"system": "bm25,margin=-1"}, "margin is '-1'; expected a number from 0"),
        ({"system": "bm25,min_score=nan"}, "min_score is 'nan'; expected a number"),
        ({"system": "bm25,relative_margin=2"}, "relative_margin is 2; expected a share from 0 to 1"),
        ({"system": "bm25,from_rank=9,to_rank=8"}, "from_rank is 9 and to_rank 8"),
        ({"system": ("bm25", "bm25,weight=2")}, "two systems have this name"),
        ({"system": "index=bm25"}, "the index has this name; name the system"),
        ({"index": "bm25", "version": 2}, "version has no effect: it applies to an index, and bm25 is none"),
        ({"index": "bm25", "model": "m"}, "model has no effect"),
        ({"pool": 20}, "pool has no effect: it applies to sampling random"),
        ({"pool": 6, "sampling": "random"}, "7 negatives from a pool of 6; raise pool"),
        ({"system": "bm25,to_rank=2", "to_rank": 4}, "7 negatives from 6 ranks"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        config(**settings)
    assert message in str(error.value)


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=4), st.integers(1, 60))
def test_shares_follow_the_weights(weights: list[float], n: int) -> None:
    """No system has fewer negatives than its share, rounded down."""
    taken = Counter[int]()
    for _ in range(n):
        taken[next_system(taken, weights, range(len(weights)))] += 1
    for system, weight in enumerate(weights):
        assert taken[system] > n * weight / sum(weights) - 1 - 1e-9


def test_queries_keep_their_hits() -> None:
    (query,) = group_queries(read_examples_of({"query": "q", "positive": "p"}))
    query.hits.extend([[("a", 0.5), ("b", 0.25)], []])
    assert from_row(to_row(query)) == query


def read_examples_of(*records: dict[str, Any]) -> Any:
    from raycol.data.examples import Example

    return [Example("here", record["query"], (record["positive"],)) for record in records]


@pytest.fixture(scope="module")
def run(beir: Path) -> Path:
    """A run over the training queries and one other: BM25's hits, less those of the query q0."""
    passages = passages_of(beir)
    queries = {each.query_id: each.query for each in read_examples(ExampleSource(path=str(beir)))}
    hits = dict(zip(queries, search_bm25(passages, list(queries.values()), 20), strict=True))
    del hits["q0"]
    path = beir.parent / "bm25.trec"
    write_run(path, {**{id_: dict(found) for id_, found in hits.items()}, "other": {passages[0].id: 1.0}}, "bm25")
    return path


def judged_of(beir: Path) -> dict[str, set[str]]:
    judged: dict[str, set[str]] = {}
    for each in read_examples(ExampleSource(path=str(beir))):
        judged.setdefault(each.query, set()).update(each.document_ids or ())
    return judged


@pytest.mark.slow
def test_negatives_are_mixed_by_weight(beir: Path, index: Path, run: Path, tmp_path: Path) -> None:
    systems = ("bm25,weight=2", f"run:{run}")
    report = mine(index, beir, tmp_path / "o", system=systems, negatives=8, short="keep")
    rows, judged = rows_of(tmp_path / "o"), judged_of(beir)
    assert report.mined_by.keys() == {"index", "bm25", "run:bm25.trec"}
    assert sum(report.mined_by.values()) == report.negatives
    whole = [row for row in rows if len(row["negatives"]) == 8 and row["query_id"] != "q0"]
    assert len(whole) > 20
    for row in whole:
        # The run has the hits of bm25, so its own are repeated texts, and the other systems fill its share.
        assert Counter(row["mined_by"])["bm25"] >= 4
        assert row["mined_by"][0] == "bm25"
    for row in rows:
        assert not judged[row["query"]] & set(row["negative_ids"])
        assert len(set(row["negatives"])) == len(row["negatives"])
        scores = row["mined_scores"][1:]
        for name in ("index", "bm25"):
            of_system = [score for score, by in zip(scores, row["mined_by"], strict=True) if by == name]
            assert of_system == sorted(of_system, reverse=True)
    assert [len(each.documents) - 1 for each in read_examples(ExampleSource(path=str(tmp_path / "o")))] == [
        len(row["negatives"]) for row in rows
    ]


def test_a_system_without_an_index_needs_no_encoder(beir: Path, run: Path, tmp_path: Path) -> None:
    settings = {"negatives": 3, "to_rank": 20, "relative_margin": 0.0, "short": "keep"}
    bm25 = mine("bm25", beir, tmp_path / "bm25", **settings)
    report = mine(f"run:{run}", beir, tmp_path / "run", **settings)
    assert (report.index, report.version) == (None, None)
    found = {row["query_id"]: row["negative_ids"] for row in rows_of(tmp_path / "bm25")}
    rows = rows_of(tmp_path / "run")
    assert 10 < len(rows) < bm25.rows == len(rows_of(tmp_path / "bm25")) < 60
    assert report.short["few hits"] == 1
    for row in rows:
        assert row["negative_ids"] == found[row["query_id"]]
        assert row["mined_scores"] == sorted(row["mined_scores"], reverse=True)
        assert set(row["mined_by"]) == {"run:bm25.trec"}


def test_a_margin_rejects_the_hits_of_a_system_that_misses_a_positive(beir: Path, run: Path, tmp_path: Path) -> None:
    plain = mine(f"run:{run}", beir, tmp_path / "plain", negatives=1, to_rank=5)
    strict = mine(f"run:{run}", beir, tmp_path / "strict", negatives=1, to_rank=5, margin=0.0)
    missed = {row["query_id"] for row in rows_of(tmp_path / "plain") if row["mined_scores"][0] is None}
    assert missed
    assert not missed & {row["query_id"] for row in rows_of(tmp_path / "strict")}
    assert strict.rows < plain.rows


class InterruptedExecutor(RecordingExecutor):
    """Runs two parts of mining, and all of exact scoring."""

    def run(self, worker: type, config: Any, inputs: Any, *rest: Any) -> Any:
        if worker is not MiningWorker:
            yield from super().run(worker, config, inputs, *rest)
            return
        yield from super().run(worker, config, dict(list(inputs.items())[:2]), *rest)
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_single_vector_model_and_an_interrupted_job(
    beir: Path, index: Path, tiny_backbone: Path, tmp_path: Path, computed_parts: list[int]
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny_backbone), device="cpu").save(str(tmp_path / "single"))  # mean pooling
    settings = {"system": f"s=single:{tmp_path / 'single'}", "sampling": "random", "pool": 9, "negatives": 4}
    report = mine(index, beir, tmp_path / "whole", short="keep", **settings)
    assert set(report.mined_by) == {"index", "s"}
    with pytest.raises(KeyboardInterrupt):
        mine(index, beir, tmp_path / "o", InterruptedExecutor(), short="keep", **settings)
    with pytest.raises(InputError, match=r"differs in .*system") as refused:
        mine(index, beir, tmp_path / "o", short="keep", **{**settings, "system": "bm25"})
    assert "what is read" in str(refused.value)
    del computed_parts[:]
    assert mine(index, beir, tmp_path / "o", short="keep", **settings).reused_parts == 2
    assert computed_parts == [2, 3, 4]
    assert contents(tmp_path / "o") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_pool_holds_the_best_hits(beir: Path, index: Path, tmp_path: Path) -> None:
    mine(index, beir, tmp_path / "top", negatives=8, short="keep")
    mine(index, beir, tmp_path / "pool", negatives=4, sampling="random", pool=8, short="keep")
    for row, top in zip(rows_of(tmp_path / "pool"), rows_of(tmp_path / "top"), strict=True):
        assert set(row["negative_ids"]) <= set(top["negative_ids"])


def test_a_pool_that_is_too_small_for_a_query_is_reported(beir: Path, index: Path, run: Path, tmp_path: Path) -> None:
    """The run has no hits of q0, so its pool of the index is all there is."""
    settings = {"sampling": "random", "pool": 4, "negatives": 7, "short": "keep", "from_rank": 3}
    report = mine(index, beir, tmp_path / "o", system=f"run:{run}", **settings)
    assert sum(report.short.values()) >= 1
    assert {row["query_id"]: len(row["negatives"]) for row in rows_of(tmp_path / "o")}["q0"] == 4


@pytest.mark.slow
def test_positives_judged_elsewhere_are_not_mined(beir: Path, index: Path, tmp_path: Path) -> None:
    mine(index, beir, tmp_path / "before", negatives=2)
    first = {row["query_id"]: row for row in rows_of(tmp_path / "before")}
    data = tmp_path / "beir"
    shutil.copytree(beir, data)
    judged = {"q0": first["q0"]["negative_ids"][0], "q1": first["q1"]["negative_ids"][0]}
    (data / "qrels/dev.tsv").write_text(f"query-id\tcorpus-id\tscore\nq0\t{judged['q0']}\t1\nq1\t{judged['q1']}\t0\n")
    more = write_jsonl(
        tmp_path / "more.jsonl", [{"query": first["q2"]["query"], "positive": first["q2"]["negatives"][0]}]
    )
    mine(index, data, tmp_path / "after", negatives=2, judged=more)
    rows = {row["query_id"]: row for row in rows_of(tmp_path / "after")}
    assert judged["q0"] not in rows["q0"]["negative_ids"]
    assert judged["q1"] in rows["q1"]["negative_ids"]
    assert first["q2"]["negatives"][0] not in rows["q2"]["negatives"]
    assert rows["q3"] == first["q3"]


@pytest.mark.slow
def test_systems_that_cannot_search_are_refused(beir: Path, index: Path, run: Path, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"query": "rain", "positive": "wind"}])
    strange = tmp_path / "strange.trec"
    strange.write_text("q1 Q0 nowhere 1 2.0 tag\n")
    for data, system, message in (
        (pairs, "bm25", "bm25: searches a corpus; pass it with `corpus=`"),
        (beir, f"run:{tmp_path / 'gone'}", "gone: no such file"),
        (beir, f"run:{strange}", "has no document 'nowhere', which run:strange.trec has"),
        (beir, f"single:{tmp_path / 'gone'}", "gone': no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            mine(index, data, tmp_path / "o", EXECUTOR, system=system)
    with pytest.raises(InputError, match=r"has no hits of any query, such as 'rain' \(id 'none'\)"):
        mine(index, pairs, tmp_path / "o", system=f"run:{run}", corpus=beir)
    assert not (tmp_path / "o").exists()
