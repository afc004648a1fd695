from pathlib import Path

import pytest

from raycol.data import Dataset, ExampleSource, Passage, load_beir, read_examples
from raycol.data.beir import save_beir
from raycol.data.qrels import save_qrels
from raycol.demo.config import DemoConfig
from raycol.demo.data import gather, save
from raycol.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    passages = [Passage(f"d{n}", f"title {n}", f"text {n}") for n in range(6)] + [Passage("untitled", "", "text")]
    queries = {f"q{n}": f"question {n}" for n in range(4)}
    save_beir(tmp_path / "beir", Dataset(passages, queries, {f"q{n}": {f"d{n}": 1} for n in range(3)}))
    return tmp_path / "beir"


def test_the_pairs_come_from_a_beir_folders_train_split(folder: Path) -> None:
    save_qrels(folder / "qrels" / "train.tsv", {"q3": {"d3": 1, "d4": 1}})
    data = gather(DemoConfig(corpus=folder, queries=2))
    assert data.pairs == [("question 3", "title 3 text 3"), ("question 3", "title 4 text 4")]
    assert list(data.dataset.queries) == ["q0", "q1"] == list(data.dataset.qrels)
    assert data.questions == ("question 0", "question 1")


def test_without_a_train_split_titles_and_texts_are_the_pairs(folder: Path, tmp_path: Path) -> None:
    data = gather(DemoConfig(corpus=folder))
    assert data.pairs == [(f"title {n}", f"text {n}") for n in range(6)]
    save(data, tmp_path / "out")
    assert load_beir(tmp_path / "out" / "corpus") == data.dataset
    written = read_examples(ExampleSource(path=str(tmp_path / "out" / "pairs.jsonl")))
    assert [(example.query, *example.documents) for example in written] == data.pairs


def test_a_folder_without_pairs_is_refused(folder: Path) -> None:
    path = folder / "corpus.jsonl"
    path.write_text(path.read_text().replace('"title": "title', '"title": "", "was": "'))
    with pytest.raises(InputError, match="too little to train on"):
        gather(DemoConfig(corpus=folder))


@pytest.mark.slow
def test_docstrings_are_the_default() -> None:
    data = gather(DemoConfig(documents=150, queries=5))
    assert len(data.dataset.passages) == 150
    assert 0 < len(data.dataset.queries) <= 5
    assert data.pairs
