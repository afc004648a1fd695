"""`raycol score` in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.data.examples import ExampleSource, read_examples
from raycol.errors import InputError, RaycolError
from raycol.mining import MineConfig, ScoreConfig, ScoringReport
from raycol.mining.cross_encoder import (
    count_truncated,
    cross_encoder_fingerprint,
    load_cross_encoder,
    probe_cross_encoder,
    score_pairs,
)
from tests.conftest import TOPICS, write_jsonl
from tests.mining.conftest import contents, save_cross_encoder
from tests.mining.in_process import mine_negatives, score_examples
from tests.mining.test_mine import hidden_siblings, rows_of


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples with one to six documents."""
    rng = np.random.default_rng(2)
    words = " ".join(TOPICS.values()).split()

    def text() -> str:
        return " ".join(rng.choice(words, rng.integers(1, 30)))

    return write_jsonl(
        tmp_path_factory.mktemp("score") / "examples.jsonl",
        [
            {"query_id": f"q{n}", "query": text(), "positive": text(), "negatives": [text() for _ in range(n % 6)]}
            for n in range(40)
        ],
    )


def score(data: Path, teacher: Path, out: Path, **settings: Any) -> ScoringReport:
    values = {"queries_per_part": 6, "n_ways": 4, **settings}
    return score_examples(ScoreConfig(data=data, teacher=str(teacher), out=out, **values))


@pytest.mark.slow
def test_scores_are_the_logits_of_every_pair(examples: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    report = score(examples, tiny_cross_encoder, tmp_path / "o")
    read = list(read_examples(ExampleSource(path=str(examples))))
    long = [example for example in read if len(example.documents) >= 4]
    rows = rows_of(tmp_path / "o")
    assert [(row["query_id"], row["query"], row["documents"]) for row in rows] == [
        (example.query_id, example.query, list(example.documents[:4])) for example in long
    ]
    model = load_cross_encoder(str(tiny_cross_encoder), device="cpu")
    pairs = [(row["query"], text) for row in rows for text in row["documents"]]
    alone = [float(model.predict([pair], activation_fn=None)[0]) for pair in pairs[:12]]
    scores = [score for row in rows for score in row["scores"]]
    logits = np.log(np.array(alone) / (1 - np.array(alone)))  # predict returns probabilities
    assert scores[:12] == pytest.approx(logits, abs=2e-2)
    assert scores == pytest.approx(score_pairs(model, pairs, 7), abs=1e-4)
    assert (report.examples, report.rows, report.pairs, report.parts) == (
        40,
        len(long),
        4 * len(long),
        -(-len(long) // 6),
    )
    assert (report.short, report.short_kept) == (40 - len(long), 0)
    assert report.documents_left_out == sum(len(example.documents) - 4 for example in long)
    assert report.positive_first == sum(row["scores"][0] == max(row["scores"]) for row in rows)
    assert report == ScoringReport.model_validate_json((tmp_path / "o" / "scoring-report.json").read_bytes())
    assert hidden_siblings(tmp_path / "o") == []
    score(examples, tiny_cross_encoder, tmp_path / "half", dtype="bfloat16")
    half = [score for row in rows_of(tmp_path / "half") for score in row["scores"]]
    assert half != scores
    assert np.corrcoef(half, scores)[0, 1] > 0.99
    scored = list(read_examples(ExampleSource(path=str(tmp_path / "o"))))
    assert [list(each.scores or ()) for each in scored] == [row["scores"] for row in rows]


def test_short_examples_are_kept_on_request(
    examples: Path, tiny_cross_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raycol.display import scored as print_scored

    report = score(examples, tiny_cross_encoder, tmp_path / "o", short="keep", max_length=16)
    lengths = [len(row["documents"]) for row in rows_of(tmp_path / "o")]
    assert sorted(set(lengths)) == [2, 3, 4]
    assert report.short - report.short_kept == 7  # examples with one document
    print_scored(report)
    output = capsys.readouterr().out
    assert (
        f"{report.short} of 40 examples have fewer than 4 documents: 7 DROPPED and {report.short_kept} kept" in output
    )
    assert f"{report.cut} pairs exceed the teacher's length" in output
    assert report.cut > 10
    with pytest.raises(InputError, match="none of 40 examples has 9 documents; lower `n_ways=`"):
        score(examples, tiny_cross_encoder, tmp_path / "none", n_ways=9)
    assert not list(tmp_path.glob("*none*"))


@pytest.mark.slow
def test_finished_parts_are_not_scored_again(
    examples: Path,
    tiny_cross_encoder: Path,
    tmp_path: Path,
    computed_parts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = score(examples, tiny_cross_encoder, tmp_path / "whole")
    del computed_parts[:]
    from raycol.mining import workers

    scored = []

    def fail(rows: list[Any], *rest: Any) -> Any:
        scored.append(rows)
        if len(scored) == 3:
            raise ZeroDivisionError("of all things")
        return real(rows, *rest)

    real = workers.score_part
    monkeypatch.setattr(workers, "score_part", fail)
    with pytest.raises(
        RaycolError, match=r"a worker failed on part 2, which begins with the query '.*': ZeroDivision"
    ):
        score(examples, tiny_cross_encoder, tmp_path / "o")
    monkeypatch.setattr(workers, "score_part", real)
    assert computed_parts == [0, 1]
    with pytest.raises(InputError, match=r"differs in n_ways \(4 there, 3 here\)"):
        score(examples, tiny_cross_encoder, tmp_path / "o", n_ways=3)
    other = save_cross_encoder(tiny_cross_encoder, tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="differs in teacher"):
        score(examples, other, tmp_path / "o")
    report = score(examples, tiny_cross_encoder, tmp_path / "o", num_workers=2)
    assert report.reused_parts == 2
    assert contents(tmp_path / "o") == contents(tmp_path / "whole")
    assert report.model_copy(update={"out": whole.out, "reused_parts": 0, "seconds": whole.seconds}) == whole


@pytest.mark.slow
def test_mined_examples_are_scored(beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    mine_negatives(MineConfig(index=index, data=beir, out=tmp_path / "mined", negatives=3, queries_per_part=8))
    score(tmp_path / "mined", tiny_cross_encoder, tmp_path / "scored")
    mined, scored = rows_of(tmp_path / "mined"), rows_of(tmp_path / "scored")
    assert [(row["query_id"], [row["positive_id"], *row["negative_ids"]]) for row in mined] == [
        (row["query_id"], row["document_ids"]) for row in scored
    ]


@pytest.mark.slow
def test_the_fingerprint_covers_what_decides_the_scores(
    tiny_cross_encoder: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    def fingerprint(path: Path, **settings: Any) -> str:
        return cross_encoder_fingerprint(load_cross_encoder(str(path), device="cpu", **settings))

    same = save_cross_encoder(tiny_backbone, tmp_path / "same")
    other = save_cross_encoder(tiny_backbone, tmp_path / "other", seed=1)
    original = fingerprint(tiny_cross_encoder)
    assert fingerprint(same) == original
    assert len({original, fingerprint(other), fingerprint(same, max_length=20)}) == 3
    model = load_cross_encoder(str(same), device="cpu", max_length=20)
    pairs = [("rain", "wind " * 16), ("rain", "wind " * 17)]
    assert count_truncated(model, pairs) == 1
    (folder := same / "config.json").write_text(
        json.dumps({**json.loads(folder.read_text()), "architectures": ["BertForMaskedLM"]})
    )
    with pytest.raises(InputError, match=r"is not a cross-encoder \(BertForMaskedLM\)"):
        load_cross_encoder(str(same), device="cpu")
    (other / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="other' cannot be opened: "):
        load_cross_encoder(str(other), device="cpu")


def test_a_non_finite_score_is_reported(tiny_cross_encoder: Path) -> None:
    import torch

    model = load_cross_encoder(str(tiny_cross_encoder), device="cpu")
    assert score_pairs(model, [], 4).shape == (0,)
    with torch.no_grad():
        model[0].auto_model.classifier.weight[:] = torch.inf
    with pytest.raises(InputError, match="score of 'rain' and 'fog' is not finite; try `dtype='float32'`"):
        score_pairs(model, [("rain", "fog")], 4)


def test_a_cross_encoder_that_cannot_score_is_refused_before_any_work(tiny_cross_encoder: Path) -> None:
    """Without a padding token, pairs of different lengths cannot be batched."""
    model = load_cross_encoder(str(tiny_cross_encoder), device="cpu")
    model.tokenizer.pad_token = None
    with pytest.raises(InputError, match="fails to score a short and a long pair in one batch"):
        probe_cross_encoder(model, "m")
    probe_cross_encoder(load_cross_encoder(str(tiny_cross_encoder), device="cpu"), "m")


def test_the_positive_is_never_dropped(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    scored = {"query": "rain", "documents": ["a", "b", "c"], "scores": [0.1, 0.2, 9.0]}
    report = score(write_jsonl(tmp_path / "d.jsonl", [scored]), tiny_cross_encoder, tmp_path / "o", n_ways=2)
    assert [row["documents"] for row in rows_of(tmp_path / "o")] == [["a", "c"]]
    assert report.documents_left_out == 1
