"""Corpora, BEIR folders and training data in an object store, with missing objects and failing requests."""

from pathlib import Path
from typing import Any

import pytest

from raycol.data import ExampleSource, load_beir, read_corpus, read_examples
from raycol.data.beir import save_beir
from raycol.data.collection import Dataset
from raycol.data.collections import find_collections
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


def test_beir_folder_in_object_store(folder: str) -> None:
    assert load_beir(folder) == BEIR
    (example,) = read_examples(ExampleSource(path=folder, split="test"))
    assert (example.query, example.documents, example.document_ids) == ("first", ("Two two",), ("d2",))
    with pytest.raises(InputError, match=f"{folder}/qrels/dev.tsv: no such file; existing splits: test"):
        load_beir(folder, "dev")
    with pytest.raises(InputError, match="no such folder; expected a BEIR folder"):
        load_beir(f"{folder}-2")
    with pytest.raises(InputError, match="is a file; expected a BEIR folder"):
        load_beir(f"{folder}/corpus.jsonl")


def test_collections_in_object_store(folder: str, s3: str) -> None:
    put(f"{s3}/msmarco/collection.tsv", b"0\tone\n1\ttwo\n")
    put(f"{s3}/msmarco/queries.tsv", b"7\tfirst\n")
    put(f"{s3}/msmarco/qrels.dev.tsv", b"7\t0\t1\t1\n")
    beir, msmarco = (ref.open() for ref in find_collections(s3))
    assert (beir.name, beir.location, beir.dataset()) == ("beir", folder, BEIR)
    assert (msmarco.name, msmarco.qrels) == ("msmarco", {"7": {"1": 1}})
    assert [passage.text for passage in msmarco.passages()] == ["one", "two"]


def test_changed_data_changes_the_inputs_of_a_run(folder: str, tmp_path: Path) -> None:
    config = TrainConfig(model="m", data=folder, out=tmp_path / "o", eval_data=folder)
    before = _inputs(config)
    assert before == _inputs(config)
    put(f"{folder}/qrels/test.tsv", b"q1\td1\t1\n")
    assert before != _inputs(config)


@pytest.mark.parametrize("name", ["beir", "beir/corpus.jsonl", "beir/*.jsonl", "more.parquet"])
def test_access_denied_is_reported_with_remedy(folder: str, s3: str, s3_server: Server, name: str) -> None:
    with s3_server.failing(denied), pytest.raises(InputError) as error:
        list(read_corpus(f"{s3}/{name}"))
    assert f"{s3}/{name}: cannot be read (" in str(error.value)
    assert "no permission: check the credentials in the environment" in str(error.value)


def test_missing_bucket_is_reported(s3: str) -> None:
    with pytest.raises(InputError, match="s3://nowhere/x: no such file or folder, and no bucket 'nowhere'"):
        list(read_corpus("s3://nowhere/x"))


def test_endpoint_failing_while_a_file_is_read(s3: str, s3_server: Server) -> None:
    """A corpus larger than one read: a failure after the first reads is an error, not the end of the file."""
    line = b'{"_id": "%07d", "text": "' + b"word " * 200 + b'"}\n'
    put(f"{s3}/corpus.jsonl", b"".join(line % number for number in range(5000)))
    seen: list[Any] = []

    def later(request: Any, start: Any) -> Any:
        seen.append(request)
        return refused(start, "503 Service Unavailable", "SlowDown") if len(seen) > 4 else None

    read: list[Any] = []
    with s3_server.failing(later), pytest.raises(InputError, match=r"corpus\.jsonl.*cannot be read.*try again"):
        read.extend(item.id for item in read_corpus(f"{s3}/corpus.jsonl"))
