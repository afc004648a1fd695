"""Corpora in memory: the same passages as from a file, and messages that name the record."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raycol.data import Fields, read_corpus
from raycol.data.in_memory import stored_corpus
from raycol.errors import InputError
from raycol.indexing import IndexConfig
from tests.conftest import make_passages, write_jsonl
from tests.indexing.in_process import build_index

RECORDS = [
    {"id": 1, "title": "a", "text": "rain", "year": 2001, "score": 0.5, "open": True},
    {"id": 2, "title": None, "text": "snow ☃", "year": None, "score": 1.0, "open": False},
]
FIELDS = Fields(metadata={"year": "", "score": "", "open": ""})


def datasets(kind: str) -> Any:
    import datasets

    return {
        "list": lambda: RECORDS,
        "generator": lambda: (record for record in RECORDS),
        "pandas": lambda: pd.DataFrame(RECORDS).astype({"year": "Int64"}),
        "arrow": lambda: pa.Table.from_pylist(RECORDS),
        "record batch": lambda: pa.RecordBatch.from_pylist(RECORDS),
        "reader": lambda: pa.Table.from_pylist(RECORDS).to_reader(),
        "hugging face": lambda: datasets.Dataset.from_list(RECORDS),
        "selected": lambda: datasets.Dataset.from_list([{**RECORDS[0], "id": 0}, *RECORDS]).select([1, 2]),
        "iterable dataset": lambda: datasets.Dataset.from_list(RECORDS).to_iterable_dataset(),
    }[kind]()


@pytest.mark.parametrize("kind", ["list", "generator", "pandas", "arrow", "record batch", "reader", "hugging face",
                                  "selected", "iterable dataset"])  # fmt: skip
def test_passages_are_those_of_a_file(kind: str, tmp_path: Path) -> None:
    expected = list(read_corpus(write_jsonl(tmp_path / "corpus.jsonl", RECORDS), fields=FIELDS))
    with stored_corpus(datasets(kind), tmp_path / "new" / "folder") as stored:
        assert list(read_corpus(stored.location, fields=FIELDS)) == expected
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_path_stays_a_path(corpus: Path) -> None:
    with stored_corpus(corpus) as stored:
        assert stored.location == str(corpus)
    with stored_corpus("hf:owner/name") as stored:
        assert stored.location == "hf:owner/name"


def test_dates_keep_their_type(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, tzinfo=datetime.UTC)
    records = [
        {"id": "1", "text": "a", "day": datetime.date(2020, 1, 2), "at": moment, "mixed": datetime.date(2020, 1, 2)},
        {"id": "2", "text": "b", "day": None, "at": pd.Timestamp(moment), "mixed": "never"},
    ]
    with stored_corpus(records) as stored:
        assert stored.typed(["day", "at:string", "at", "mixed", "text"]) == (
            "day:date", "at:string", "at:timestamp", "mixed", "text",
        )  # fmt: skip
        fields = Fields(metadata={"day": "date", "at": "timestamp"})
        first, second = read_corpus(stored.location, fields=fields)
    assert first.metadata == {"day": datetime.date(2020, 1, 2), "at": moment}
    assert second.metadata == {"day": None, "at": moment}


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"id": "1", "text": "a"}, "the corpus is one dict; expected a list of dicts"),
        (7, "the corpus is a int; expected a path or a URI"),
        (b"text", "the corpus is a bytes; "),
        (["some text"], "the corpus, record 1: a str; expected a dict"),
        ([{"id": "1", "text": "a"}, {"id": "2", "text": {1, 2}}], "the corpus, record 2: cannot be stored"),
        ([{"id": "1", "text": "a"}, {"text": "b"}], r"the corpus, record 2: no '_id' \(or 'id'\)"),
        ([{"id": "1", "text": "a"}, {"id": "1", "text": "b"}], "the corpus, record 2: duplicate id '1', first on rec"),
        ([], "the corpus: an empty corpus"),
        (pa.table({"id": ["1", "2"], "text": ["a", None]}), "the corpus, row 2: document '2' has no text"),
        (pa.table({"id": ["1"]}), "the corpus: no column for the text among id"),
    ],
)
def test_messages_name_the_record(corpus: Any, message: str) -> None:
    with pytest.raises(InputError, match=message), stored_corpus(corpus) as stored:
        list(read_corpus(stored.location))


def test_an_iterator_is_read_once_and_not_held(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Record(dict):
        def __init__(self, number: int) -> None:
            nonlocal alive, most
            super().__init__(id=str(number), text="rain")
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def records() -> Iterator[Record]:
        for number in range(1000):
            yield Record(number)

    with stored_corpus(records()) as stored:
        assert sum(1 for _ in read_corpus(stored.location)) == 1000
    assert most <= 3


@pytest.mark.slow
def test_an_index_has_the_same_bytes(tiny_colbert: Path, tmp_path: Path) -> None:
    passages = [{**passage, "lang": "en"} for passage in make_passages(30)]
    settings = {"model": str(tiny_colbert), "metadata": ("lang",)}
    path = write_jsonl(tmp_path / "corpus.jsonl", passages)
    build_index(IndexConfig(corpus=str(path), out=str(tmp_path / "a"), **settings))
    with stored_corpus(iter(passages), tmp_path) as stored:
        build_index(IndexConfig(corpus=stored.location, out=str(tmp_path / "b"), **settings))
    manifests = [json.loads((tmp_path / name / "manifests" / "00000001.json").read_text()) for name in "ab"]
    assert manifests[0] == manifests[1]


def test_encoded_documents(tmp_path: Path) -> None:
    tokens_TD = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    with stored_corpus([{"id": "1", "embeddings": tokens_TD}]) as stored:
        assert np.array_equal(
            np.array(json.loads(Path(stored.location).read_text())["embeddings"], dtype=np.float32), tokens_TD
        )
