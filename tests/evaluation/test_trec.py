"""Run files: what is written is read again, in trec_eval's order; what is not a run is refused on one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycol.errors import InputError, RaycolError
from raycol.evaluation.trec import ranking, read_run, write_run

LINE = "q1 Q0 d1 1 2.5 tag"
# Everything but TREC's separators and the byte order mark; an id may have other white space, such as U+00A0.
IDS = st.text(st.characters(exclude_characters=" \t\n\r\x0b\x0c\ufeff", exclude_categories=["Cs"]), min_size=1)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=9), min_size=1, max_size=3))
def test_reading_gives_the_run_that_was_written(run: dict[str, dict[str, float]], tmp_path: Path) -> None:
    write_run(tmp_path / "run", run, "tag")
    assert read_run(tmp_path / "run", run.keys()) == run


@given(
    st.dictionaries(
        st.sampled_from([*"abAB019", "é", "\U0001f600", "\uffff"]), st.sampled_from([0, 1, 1 + 1e-9, 1e300])
    )
)
def test_the_order_is_trec_evals(scores: dict[str, float]) -> None:
    """The reciprocal rank of each document as the only relevant one shows where trec_eval ranks it."""
    for rank, id_ in enumerate(ranking(scores), start=1):
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {id_: 1}}, {"recip_rank"})
        assert evaluator.evaluate({"q": scores})["q"]["recip_rank"] == 1 / rank


def test_the_file_has_trecs_six_columns(tmp_path: Path) -> None:
    run = {"q2": {"b": np.float32(0.1), "c": 1e-7, "a": 3}, "q1": {"x": 1.0, "y": 1.0}, "q3": {}}
    write_run(tmp_path / "run", run, "bm25 > my model")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q2 Q0 a 1 3.0 bm25_>_my_model",
        "q2 Q0 b 2 0.10000000149011612 bm25_>_my_model",
        "q2 Q0 c 3 1e-07 bm25_>_my_model",
        "q1 Q0 y 1 1.0 bm25_>_my_model",
        "q1 Q0 x 2 1.0 bm25_>_my_model",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_programs_files_are_read(tmp_path: Path) -> None:
    lines = "\ufeffq1\tQ0  d1 9 -.5 tag\r\n\n   \nq1 0 d2 1 +2E3 tag\r\nq2 Q0 d1 1 7 tag"
    expected = {"q1": {"d1": -0.5, "d2": 2000.0}, "q2": {"d1": 7.0}}
    (tmp_path / "run.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_run(tmp_path / "run.gz", ["q1", "q2", "q3"]) == expected
    (tmp_path / "run").write_text(lines, newline="")
    assert read_run(f"file://{tmp_path}/run", ["q1", "q2", "q3"]) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q3 Q0 d2 2 1.5 tag", "query 'q3' is not in the collection"),
        ("q1 Q0 d1 2 1.5 tag", "document 'd1' is repeated for query 'q1'"),
        ("q1 0 d2 1", "4 columns; expected TREC's six"),
        ("q1 Q0 d 2 2 1.5 tag", "7 columns"),
        ('{"query": "q1"}', "2 columns"),
        ("q1 Q0 d2 2 nan tag", "the score is 'nan'; expected a finite number"),
        ("q1 Q0 d2 2 -inf tag", "the score is '-inf'"),
        ("q1 Q0 d2 2 1e999 tag", "the score is '1e999'"),
        ("q1 Q0 d2 2 1_0 tag", "the score is '1_0'"),
        ("q1 Q0 d2 2 0x1p3 tag", "the score is '0x1p3'"),
        ("q1 Q0 d2 2 1,5 tag", "the score is '1,5'"),
        ("q1 Q0 d2 2 \u0661 tag", "the score is '\u0661'"),
        (f"q1 Q0 d2 2 {'9' * 10_000} tag", "the score is '999"),
        (f"{'q' * 70_000} Q0 d2 2 1 tag", "the query id takes 70000 bytes"),
        ("q1 Q0 \x1b[31m\udcff 2 1 tag", "the document id is not UTF-8"),
        ("\x1b[31mq Q0 d2 2 1 tag", r"query '\x1b[31mq' is not"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run").write_bytes(f"{LINE}\n\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as refused:
        read_run(tmp_path / "run", ["q1"])
    assert f"{tmp_path}/run, line 3: {message}" in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(tmp_path))
    assert str(refused.value).isprintable()


def test_files_that_are_not_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text(" \n\n")
    with pytest.raises(InputError, match="no lines; expected a TREC run file"):
        read_run(tmp_path / "run", ["q1"])
    with pytest.raises(InputError, match="no such file"):
        read_run(tmp_path / "other", ["q1"])
    (tmp_path / "run.gz").write_text(LINE)
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path / "run.gz", ["q1"])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q1": {"d1": 1.0}, "q2": {"d 1": 1.0}}, "the id 'd 1' is empty or has white space"),
        ({"q1": {"d1": 1.0}, "q\n2": {"d1": 1.0}}, r"the id 'q\\n2'"),
        ({"q1": {"d1": 1.0, "d2": float("nan")}}, "document 'd2' has the score nan"),
    ],
)
def test_an_unfinished_run_leaves_no_file(tmp_path: Path, run: dict[str, dict[str, float]], message: str) -> None:
    write_run(tmp_path / "run", {"q1": {"old": 1.0}}, "tag")
    with pytest.raises(InputError, match=message):
        write_run(tmp_path / "run", run, "tag")
    assert read_run(tmp_path / "run", ["q1"]) == {"q1": {"old": 1.0}}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a name without"):
        write_run(tmp_path / "run.gz", {"q1": {"d1": 1.0}}, "tag")
    with pytest.raises(RaycolError, match="cannot be written"):
        write_run(tmp_path / "missing" / "run", {"q1": {"d1": 1.0}}, "tag")
