"""Corpora, BEIR folders and training data in an object store that fails, or lacks what is asked for."""

from pathlib import Path
from typing import Any

import pytest

from raycol.data import ExampleSource, load_beir, read_corpus, read_examples
from raycol.data.beir import Dataset, save_beir
from raycol.data.corpus import Passage
from raycol.errors import InputError
from raycol.training.config import TrainConfig
from raycol.training.run_storage import _inputs
from tests.storage.server import Server, denied, put, refused

BEIR = Dataset([Passage("d1", "", "one"), Passage("d2", "Two", "two")], {"q1": "first"}, {"q1": {"d2": 1}})


@pytest.fixture
def folder(s3: str, tmp_path: Path) -> str:
    save_beir(tmp_path / "beir", BEIR)
    for path in (tmp_path / "beir").rglob("*"):
        if path.is_file():
            put(f"{s3}/beir/{path.relative_to(tmp_path / 'beir')}", path.read_bytes())
    return f"{s3}/beir"


def test_a_beir_folder_is_read_as_a_local_one(folder: str) -> None:
    assert load_beir(folder) == BEIR
    (example,) = read_examples(ExampleSource(path=folder, split="test"))
    assert (example.query, example.documents, example.document_ids) == ("first", ("Two two",), ("d2",))
    with pytest.raises(InputError, match=f"{folder}/qrels/dev.tsv: no such file; splits here: test"):
        load_beir(folder, "dev")
    with pytest.raises(InputError, match="no such folder; expected a BEIR folder"):
        load_beir(f"{folder}-2")
    with pytest.raises(InputError, match="is a file; expected a BEIR folder"):
        load_beir(f"{folder}/corpus.jsonl")


def test_a_training_knows_that_its_data_has_changed(folder: str, tmp_path: Path) -> None:
    config = TrainConfig(model="m", data=folder, out=tmp_path / "o", eval_data=folder)
    before = _inputs(config)
    assert before == _inputs(config)
    put(f"{folder}/qrels/test.tsv", b"q1\td1\t1\n")
    assert before != _inputs(config)


@pytest.mark.parametrize("name", ["beir", "beir/corpus.jsonl", "beir/*.jsonl", "more.parquet"])
def test_what_may_not_be_read_is_named_with_what_to_do(folder: str, s3: str, s3_server: Server, name: str) -> None:
    with s3_server.failing(denied), pytest.raises(InputError) as error:
        list(read_corpus(f"{s3}/{name}"))
    assert f"{s3}/{name}: cannot be read (" in str(error.value)
    assert "no permission: check the credentials in the environment" in str(error.value)


def test_a_bucket_that_there_is_not_is_named(s3: str) -> None:
    with pytest.raises(InputError, match="s3://nowhere/x: no such file or folder, and no bucket 'nowhere'"):
        list(read_corpus("s3://nowhere/x"))


def test_the_endpoint_goes_in_the_midst_of_a_file(s3: str, s3_server: Server) -> None:
    """A corpus larger than what is read at once: its beginning is read, and is not taken for all of it."""
    line = b'{"_id": "%07d", "text": "' + b"word " * 200 + b'"}\n'
    put(f"{s3}/corpus.jsonl", b"".join(line % number for number in range(5000)))
    seen: list[Any] = []

    def later(request: Any, start: Any) -> Any:
        seen.append(request)
        return refused(start, "503 Service Unavailable", "SlowDown") if len(seen) > 4 else None

    read: list[Any] = []
    with s3_server.failing(later), pytest.raises(InputError, match=r"corpus\.jsonl.*cannot be read.*try again"):
        read.extend(item.id for item in read_corpus(f"{s3}/corpus.jsonl"))
