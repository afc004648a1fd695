import gzip
from pathlib import Path

import pytest

from raycol.data import Dataset, Passage, load_beir
from raycol.data.beir import save_beir
from raycol.data.qrels import read_qrels
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


def test_save_and_load_round_trip(folder: Path) -> None:
    assert load_beir(folder) == DATASET


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", "line 2: expected query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tgood\n", "line 2: expected query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "no judgements"),
        ("qrels/test.tsv", "h\nq9\td1\t1\n", "no query 'q9'"),
        ("qrels/test.tsv", "q1\td1\tgood\nq1\td2\t1\n", "line 1: expected query-id"),
        ("qrels/test.tsv", "q1\td1\t.5\n", "line 1: expected query-id"),
        ("qrels/test.tsv", "q1\td1\t1\t\n", "line 1: expected query-id"),
        ("qrels/test.tsv", "q1\td1\t1\nq2\t0\td1\t1\n", "line 2: expected query-id"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\t1\nq1\td1\t0\n", "line 3: document 'd1' has grade 0"),
        ("qrels/test.tsv", "q1\tMED-1\t1\nq2\tMED-2\t1\n", "none of the 2 judged documents, such as 'MED-1'"),
        ("queries.jsonl", '{"_id": "q1"}\n', "query 'q1' has no text"),
        ("queries.jsonl", '{"text": "x"}\n', "line 1: no '_id'"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n' * 2, "line 2: duplicate query id 'q1'"),
    ],
)
def test_malformed_file_is_reported(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(InputError) as error:
        load_beir(folder)
    assert message in str(error.value)


def test_qrels_header_is_optional(folder: Path) -> None:
    path = folder / "qrels" / "test.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert load_beir(folder).qrels == DATASET.qrels
    path.write_bytes(b"q1\t\xff\t1\n")
    with pytest.raises(InputError, match="cannot be read"):
        load_beir(folder)


def test_missing_split_lists_existing_splits(folder: Path) -> None:
    with pytest.raises(InputError, match="existing splits: test"):
        load_beir(folder, "dev")


@pytest.mark.parametrize(
    "judgements",
    [
        "q1 0 d1 1\nq2 0 d2 2\nq2 0 d1 0\n",
        "q1\t0\td1\t1\nq2\t0\td2\t2\nq2\t0\td1\t0\n",
        "query-id\tQ0\tcorpus-id\tscore\nq1\t0\td1\t1\nq2\t0\td2\t2\nq2\t0\td1\t0\n",
        "docid\trelevance\tqid\nd1\t1\tq1\nd2\t2\tq2\nd1\t0\tq2\n",
        "q1 d1 1\nq2 d2 2\nq2 d1 0\n",
        "q1\td1\t1.0\nq2\td2\t2.0\r\nq2\td1\t0.0\n",
        "q1\td1\t1 \n\nq2\td2\t2 \nq2\td1\t0 \n",
        "\ufeffq1\td1\t1\nq2\td2\t2\nq2\td1\t0\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td1\t0\n",
    ],
)
def test_qrels_layouts(folder: Path, judgements: str) -> None:
    (folder / "qrels" / "test.tsv").write_text(judgements, encoding="utf-8")
    dataset = load_beir(folder)
    assert dataset == DATASET
    assert dataset.notes == ()


def test_fractions_count_as_trec_eval_reads_them(folder: Path) -> None:
    path = folder / "qrels" / "test.tsv"
    path.write_text("q1\td1\t1.9\nq1\td2\t-0.5\nq2\td1\t2.0\nq2\td2\t0.5\n")
    dataset = load_beir(folder)
    assert dataset.qrels == {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2, "d2": 0}}
    (note,) = dataset.notes
    assert note.startswith(f"3 of 4 grades of {path} are fractions, such as 1.9")
    with pytest.raises(InputError, match="line 1: expected query-id"):
        read_qrels(path)  # for training, where nobody reads notes
    path.write_text("q1\td1\t1\nq2\td1\t0.9\nq2\td2\t-1\n")
    assert load_beir(folder).notes[1].startswith("1 of 2 queries have no document with a grade above 0")


def test_compressed_files(folder: Path) -> None:
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv"):
        path = folder / name
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_beir(folder) == DATASET
    with pytest.raises(InputError, match="existing splits: test"):
        load_beir(folder, "dev")
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(InputError, match=r"holds queries\.jsonl and queries\.jsonl\.gz"):
        load_beir(folder)


def test_integer_query_ids_and_unchecked_unjudged_queries(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("7\td1\t1\n")
    (folder / "queries.jsonl").write_text('{"_id": 7, "text": "seven"}\n{"_id": "q9", "text": ""}\n')
    assert load_beir(folder).queries == {"7": "seven"}


def test_notes_on_missing_documents_and_repeated_judgements(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\nq1\td1\t1\nq1\td7\t1\nq2\td8\t1\n")
    dataset = load_beir(folder)
    assert dataset.qrels == {"q1": {"d1": 1, "d7": 1}, "q2": {"d8": 1}}
    repeated, missing = dataset.notes
    assert repeated.startswith("1 judgements of ")
    assert missing.startswith("2 of 3 judged documents, such as 'd7', are not in the corpus of ")
