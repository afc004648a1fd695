from pathlib import Path

import pytest

from raycol.data import Dataset, Passage, load_beir
from raycol.data.beir import save_beir
from raycol.errors import InputError

DATASET = Dataset(
    [Passage("d1", "", "one"), Passage("d2", "Two", "two")],
    {"q1": "first", "q2": "second"},
    {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_beir(tmp_path, DATASET)
    return tmp_path


def test_a_dataset_survives_its_folder(folder: Path) -> None:
    assert load_beir(folder) == DATASET


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", "line 2: expected query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tgood\n", "line 2: expected query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "no judgements"),
        ("qrels/test.tsv", "h\nq9\td1\t1\n", "no query 'q9'"),
        ("queries.jsonl", '{"_id": "q1"}\n', "query 'q1' has no text"),
        ("queries.jsonl", '{"text": "x"}\n', "line 1: no '_id'"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n' * 2, "line 2: the query id 'q1' stands on an earlier line"),
    ],
)
def test_malformed_files_are_named(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(InputError) as error:
        load_beir(folder)
    assert message in str(error.value)


def test_judgements_need_no_header(folder: Path) -> None:
    path = folder / "qrels" / "test.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert load_beir(folder).qrels == DATASET.qrels
    path.write_bytes(b"q1\t\xff\t1\n")
    with pytest.raises(InputError, match="cannot be read"):
        load_beir(folder)


def test_a_missing_split_says_which_there_are(folder: Path) -> None:
    with pytest.raises(InputError, match="splits here: test"):
        load_beir(folder, "dev")
