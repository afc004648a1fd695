"""Several teachers, and scores of earlier jobs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.mining import ScoreConfig, ScoringReport
from raycol.mining.scoring import Combination, normalize_scores
from tests.conftest import write_jsonl
from tests.mining.conftest import contents, save_cross_encoder
from tests.mining.in_process import score_examples
from tests.mining.test_mine import rows_of

RECORDS = [{"query": f"rain {n}", "documents": ["fog", f"wind {n}", f"snow {n % 3}"]} for n in range(12)]


@pytest.fixture(scope="module")
def other(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second cross-encoder."""
    return save_cross_encoder(tiny_backbone, tmp_path_factory.mktemp("other-cross-encoder"), seed=1)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        {"query": each["query"], "positive": each["documents"][0], "negatives": each["documents"][1:]}
        for each in RECORDS
    ]
    return write_jsonl(tmp_path_factory.mktemp("teachers") / "examples.jsonl", records)


def score(data: Path, out: Path, *teachers: Path, **settings: Any) -> ScoringReport:
    names = tuple(map(str, teachers))
    return score_examples(ScoreConfig(data=data, teacher=names, out=out, n_ways=3, queries_per_part=5, **settings))


def scores_of(out: Path, column: str = "scores") -> np.ndarray:
    return np.array([row[column] for row in rows_of(out)])


@given(
    st.lists(st.lists(st.integers(-40, 40), min_size=4, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["z-score", "min-max"]),
)
def test_normalized_scores_keep_the_order_and_ignore_scale(rows: list[list[int]], how: Any) -> None:
    scores_TD = np.array(rows) / 8
    normalized_TD = normalize_scores(scores_TD, how)
    assert np.isfinite(normalized_TD).all()
    assert np.allclose(normalize_scores(scores_TD * 4 + 8, how), normalized_TD, atol=1e-6)
    for scores_D, normalized_D in zip(scores_TD, normalized_TD, strict=True):
        if np.ptp(scores_D) == 0:
            assert (normalized_D == 0).all()
        elif how == "min-max":
            assert (normalized_D.min(), normalized_D.max()) == (0, 1)
        else:
            assert normalized_D.mean() == pytest.approx(0, abs=1e-9)
            assert normalized_D.std() == pytest.approx(1)


def test_a_combination_is_the_weighted_mean() -> None:
    scores_TD = np.array([[1, 3, 2], [10, 10, 40]], np.float32)
    assert Combination((1,), "none")(scores_TD[:1]).tolist() == [1, 3, 2]
    assert Combination((3, 1), "none")(scores_TD).tolist() == [3.25, 4.75, 11.5]
    assert Combination((3, 1), "min-max")(scores_TD) == pytest.approx([0, 0.75, 0.375 + 0.25])
    assert Combination((1,), "min-max")(scores_TD[:1]).tolist() == [0, 1, 0.5]


@pytest.mark.slow
def test_teachers_are_combined_and_their_scores_kept(
    examples: Path, tiny_cross_encoder: Path, other: Path, tmp_path: Path
) -> None:
    score(examples, tmp_path / "a", tiny_cross_encoder)
    score(examples, tmp_path / "b", other)
    report = score(examples, tmp_path / "o", tiny_cross_encoder, other, teacher_weights=(3, 1))
    by_teacher = scores_of(tmp_path / "o", "teacher_scores")
    assert by_teacher[:, 0].tolist() == scores_of(tmp_path / "a").tolist()
    assert by_teacher[:, 1].tolist() == scores_of(tmp_path / "b").tolist()
    expected = [Combination((3, 1), "z-score")(each.astype(np.float32)) for each in by_teacher]
    assert np.allclose(scores_of(tmp_path / "o"), expected)
    assert report.teacher == f"{tiny_cross_encoder}, {other}"
    assert len(set(report.fingerprints)) == 2
    assert "teacher_scores" not in rows_of(tmp_path / "a")[0]
    score(examples, tmp_path / "n", other, normalize="min-max")
    assert scores_of(tmp_path / "n").max(axis=1).tolist() == [1] * 12


@pytest.mark.slow
def test_only_missing_scores_are_computed(
    examples: Path,
    tiny_cross_encoder: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from raycol.mining import scoring

    half = write_jsonl(
        tmp_path / "half.jsonl",
        [
            {"query": each["query"], "positive": each["documents"][0], "negatives": each["documents"][1:]}
            for each in RECORDS[:8]
        ],
    )
    score(half, tmp_path / "half", tiny_cross_encoder)
    score(examples, tmp_path / "whole", tiny_cross_encoder, other)
    computed: list[int] = []
    real = scoring.score_pairs

    def counted(model: Any, pairs: Any, batch_size: int) -> Any:
        computed.append(len(pairs))
        return real(model, pairs, batch_size)

    monkeypatch.setattr(scoring, "score_pairs", counted)
    one = score(examples, tmp_path / "one", tiny_cross_encoder, reuse=tmp_path / "half")
    assert (one.reused, sum(computed), one.pairs) == (24, 12, 36)
    assert np.allclose(scores_of(tmp_path / "one"), scores_of(tmp_path / "whole", "teacher_scores")[:, 0], atol=1e-4)
    del computed[:]
    # Another teacher added, another order, other weights.
    two = score(examples, tmp_path / "two", other, tiny_cross_encoder, teacher_weights=(1, 2), reuse=tmp_path / "one")
    assert (two.reused, sum(computed)) == (36, 36)
    del computed[:]
    again = score(examples, tmp_path / "again", tiny_cross_encoder, other, reuse=(tmp_path / "half", tmp_path / "two"))
    assert (again.reused, computed) == (72, [])
    assert np.allclose(scores_of(tmp_path / "again"), scores_of(tmp_path / "whole"), atol=1e-4)
    raw = score(examples, tmp_path / "raw", other, reuse=tmp_path / "two")
    assert (raw.reused, computed) == (36, [])
    assert contents(tmp_path / "raw").keys() == contents(tmp_path / "two").keys()


@pytest.mark.slow
def test_scores_of_unknown_teachers_are_for_one_teacher(
    examples: Path, tiny_cross_encoder: Path, other: Path, tmp_path: Path
) -> None:
    theirs = write_jsonl(tmp_path / "theirs.jsonl", [{**RECORDS[0], "scores": [0.5, 0.25, 4.0]}])
    report = score(examples, tmp_path / "o", other, reuse=theirs)
    assert report.reused == 3
    assert scores_of(tmp_path / "o")[0].tolist() == [0.5, 0.25, 4.0]
    with pytest.raises(InputError, match=r"theirs.jsonl: does not say which teacher scored it, and there are 2"):
        score(examples, tmp_path / "p", other, tiny_cross_encoder, reuse=theirs)
    with pytest.raises(InputError, match=r"examples.jsonl, line 1: has no scores to reuse"):
        score(examples, tmp_path / "p", other, reuse=examples)
    score(examples, tmp_path / "q", tiny_cross_encoder)
    with pytest.raises(InputError, match=r"q: scored by .*, which is none of the teachers"):
        score(examples, tmp_path / "p", other, reuse=tmp_path / "q")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ()}, "teacher"),
        ({"teacher": ("a", "a")}, "teacher a is named twice"),
        ({"teacher": ("a", "b"), "teacher_weights": (1,)}, "1 teacher_weights for 2 teachers; expected one each"),
        ({"teacher": ("a", "b"), "teacher_weights": (1, 0)}, "teacher_weights"),
        ({"teacher": "a", "teacher_weights": (2,)}, "teacher_weights has no effect: there is only one teacher"),
        ({"teacher": "a", "normalize": "softmax"}, "normalize is 'softmax'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        ScoreConfig.load(overrides={"data": "d", "out": "o", **settings})
    assert message in str(error.value)
