"""Test collections: each layout in a small local copy, and what is counted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import Passage
from raycol.data.beir import save_beir
from raycol.data.collection import Collection, Dataset
from raycol.data.collections import find_collections
from raycol.errors import InputError

PASSAGES = [Passage("d1", "", "one"), Passage("d2", "Two", "two"), Passage("d3", "", "three")]
QUERIES = {"q1": "first", "q2": "second"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}}
DATASET = Dataset(PASSAGES, QUERIES, QRELS)

CORPUS_ROWS = [{"_id": passage.id, "title": passage.title, "text": passage.text} for passage in PASSAGES]
QUERY_ROWS = [{"_id": id_, "text": text} for id_, text in QUERIES.items()]
QRELS_ROWS = [
    {"query-id": query_id, "corpus-id": id_, "score": grade}
    for query_id, grades in QRELS.items()
    for id_, grade in grades.items()
]

Subsets = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def save_hub(folder: Path, subsets: Subsets) -> str:
    """Write a dataset as the hub stores it: Parquet files, and a README that names subsets and splits."""
    folder.mkdir(parents=True, exist_ok=True)
    configs = []
    for subset, splits in subsets.items():
        files = []
        for split, rows in splits.items():
            name = f"{subset}-{split}.parquet"
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), folder / name)
            files.append({"split": split, "path": name})
        configs.append({"config_name": subset, "data_files": files})
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return f"hf:{folder}"


def only(name: str | Path, split: str | None = None) -> Collection:
    (ref,) = find_collections(str(name), split)
    collection = ref.open()
    assert (collection.name, collection.group) == (ref.name, ref.group)
    return collection


def refusal(name: str | Path, split: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        [ref.open() for ref in find_collections(str(name), split)]
    assert "\n" not in str(error.value)
    return str(error.value)


# Folders


def test_beir_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_beir(tmp_path / "mine", DATASET)
    collection = only(tmp_path / "mine")
    assert (collection.name, collection.group, collection.notes) == ("mine", None, ())
    assert collection.split == "test"
    monkeypatch.chdir(tmp_path / "mine")
    assert only(".").name == "mine"
    assert list(collection.passages()) == PASSAGES
    assert collection.dataset() == DATASET
    assert "no judgements of the split 'dev'; existing judgements: test.tsv" in refusal(tmp_path / "mine", "dev")


# Hugging Face datasets


def test_beir_on_the_hub(tmp_path: Path) -> None:
    uri = save_hub(tmp_path / "scifact", {"corpus": {"corpus": CORPUS_ROWS}, "queries": {"queries": QUERY_ROWS}})
    save_hub(tmp_path / "scifact-qrels", {"default": {"train": QRELS_ROWS[:1], "test": QRELS_ROWS}})
    collection = only(uri)
    assert (collection.name, collection.location) == ("scifact", uri)
    assert collection.dataset() == DATASET
    trained = only(uri, "train")
    assert trained.queries == {"q1": "first"}
    assert trained.notes == (f"1 of 2 queries of {uri} have no judgements and are left out",)
    assert "no split 'dev'; choose one of train, test" in refusal(uri, "dev")
