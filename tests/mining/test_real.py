"""Mine and score SciFact with a trained ColBERT and a trained cross-encoder."""

from pathlib import Path

import numpy as np
import pytest

from raycol.data.beir import save_beir
from raycol.data.collection import Dataset
from raycol.data.corpus import Passage, read_corpus
from raycol.data.qrels import read_qrels
from raycol.data.queries import read_queries
from raycol.mining import MineConfig, ScoreConfig
from tests.mining.conftest import make_index
from tests.mining.in_process import mine_negatives, score_examples
from tests.mining.test_mine import rows_of

QUERIES, DOCUMENTS, WORDS = 15, 200, 40


@pytest.fixture
def scifact(beside: tuple[Path, Path], tmp_path: Path) -> Path:
    """Some claims, and the beginnings of two hundred abstracts, including those judged for the claims."""
    data, _ = beside
    qrels = dict(list(read_qrels(data / "scifact/qrels/train.tsv").items())[:QUERIES])
    queries = read_queries(data / "scifact/queries.jsonl")
    judged = {id_ for grades in qrels.values() for id_ in grades}
    passages = list(read_corpus(data / "scifact"))
    chosen = sorted(passages, key=lambda passage: passage.id not in judged)[:DOCUMENTS]
    short = [Passage(each.id, each.title, " ".join(each.text.split()[:WORDS])) for each in chosen]
    save_beir(tmp_path / "beir", Dataset(short, {id_: queries[id_] for id_ in qrels}, qrels), "train")
    return tmp_path / "beir"


@pytest.mark.slow
@pytest.mark.long
def test_false_negatives_are_rejected_and_positives_score_above_most_negatives(
    scifact: Path, beside: tuple[Path, Path], tmp_path: Path
) -> None:
    _, models = beside
    cross_encoder = str(models / "ms-marco-MiniLM-L-12-v2")
    make_index(tmp_path / "index", list(read_corpus(scifact)), models / "answerai-colbert-small-v1")
    settings = {"index": tmp_path / "index", "data": scifact, "negatives": 3, "to_rank": 20, "short": "keep"}
    filtered = mine_negatives(MineConfig(out=tmp_path / "filtered", cross_encoder=cross_encoder, **settings))
    plain = mine_negatives(MineConfig(out=tmp_path / "plain", **settings))
    scored = score_examples(ScoreConfig(data=tmp_path / "plain", teacher=cross_encoder, out=tmp_path / "o", n_ways=4))
    assert (plain.rows, plain.short) == (plain.pairs, {})
    assert plain.left_out["positive"] >= 0.8 * QUERIES
    assert filtered.left_out["cross_encoder"] > 0
    scores = np.array([row["scores"] for row in rows_of(tmp_path / "o")])
    assert len(scores) == scored.rows == plain.rows
    assert 0.6 < (scores[:, :1] > scores[:, 1:]).mean() < 1
    assert np.median(scores[:, 0]) - np.median(scores[:, 1:]) > 2
    before = {(row["query"], text) for row in rows_of(tmp_path / "plain") for text in row["negatives"]}
    after = {(row["query"], text) for row in rows_of(tmp_path / "filtered") for text in row["negatives"]}
    lowest: dict[str, float] = {}
    for row in rows_of(tmp_path / "o"):
        lowest[row["query"]] = min(lowest.get(row["query"], np.inf), row["scores"][0])
    for row in rows_of(tmp_path / "o"):
        for text, score in zip(row["documents"][1:], row["scores"][1:], strict=True):
            if abs(score - lowest[row["query"]]) > 1e-3:
                assert ((row["query"], text) in after) == (score <= lowest[row["query"]])
    assert before - after
