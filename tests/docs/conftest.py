"""The folder that the pages and examples run in."""

from pathlib import Path

import numpy as np
import pytest

from raycol.data.beir import Dataset, save_beir
from raycol.data.corpus import Passage
from tests.conftest import TOPICS, make_passages, write_jsonl
from tests.mining.conftest import save_cross_encoder

TEACHER = "cross-encoder/ms-marco-MiniLM-L-12-v2"


@pytest.fixture
def folder(tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages name: corpora, a BEIR folder, a cross-encoder."""
    monkeypatch.chdir(tmp_path)
    records = [{**record, "lang": "en", "year": 2000 + n} for n, record in enumerate(make_passages(40))]
    records[0]["_id"], records[1]["_id"] = "shutil.move", "shutil.rmtree"
    write_jsonl(tmp_path / "corpus.jsonl", records)
    write_jsonl(tmp_path / "changed.jsonl", records[2:4])
    write_jsonl(tmp_path / "new.jsonl", [{**records[0], "_id": "new"}])
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in records]
    rng = np.random.default_rng(0)
    queries = {
        f"q{n}": f"{' '.join(rng.choice(TOPICS[passage.title].split(), 3))} {n}" for n, passage in enumerate(passages)
    }
    qrels = {f"q{n}": {passage.id: 1} for n, passage in enumerate(passages)}
    for split in ("train", "test"):
        save_beir(tmp_path / "scifact", Dataset(passages, queries, qrels), split)
    save_cross_encoder(tiny_backbone, tmp_path / TEACHER)
    return tmp_path
