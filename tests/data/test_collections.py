"""Test collections: each layout in a small local copy, and what is counted."""

import gzip
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import Passage
from raycol.data.beir import save_beir
from raycol.data.collection import Collection, CorpusSurvey, Dataset
from raycol.data.collections import find_collections
from raycol.errors import InputError
from raycol.indexing.plan import plan_build, read_part

pytestmark = pytest.mark.usefixtures("hub_cache")

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

SUBSETS = {"corpus": CORPUS_ROWS, "queries": QUERY_ROWS, "qrels": QRELS_ROWS}

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


def test_changed_copy_is_read_again(tmp_path: Path) -> None:
    uri = save_hub(tmp_path / "task", {name: {"test": rows} for name, rows in SUBSETS.items()})
    before = only(uri)
    states = [file.reader.state(file) for file in before.corpus_files]
    assert before.dataset() == DATASET
    save_hub(tmp_path / "task", {name: {"test": rows[:2]} for name, rows in SUBSETS.items()})
    assert [passage.id for passage in before.passages()] == ["d1", "d2"]
    assert [file.reader.state(file) for file in before.corpus_files] != states


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


@pytest.mark.slow
def test_mteb_on_the_hub(tmp_path: Path) -> None:
    # MTEB's newer datasets name the id `id`; splits of texts are named like the judgements', or are the only ones.
    queries = [{"id": row["_id"], "text": row["text"]} for row in QUERY_ROWS]
    uri = save_hub(
        tmp_path / "task", {"default": {"test": QRELS_ROWS}, "corpus": {"test": CORPUS_ROWS, "dev": CORPUS_ROWS[:1]},
                            "queries": {"queries": queries}}
    )  # fmt: skip
    assert only(uri).dataset() == DATASET
    single = save_hub(tmp_path / "nano", {name: {"train": rows} for name, rows in SUBSETS.items()})
    assert only(single).dataset() == DATASET
    languages = save_hub(
        tmp_path / "many",
        {f"{code}-{name}": {"test": rows} for code in ("en", "de") for name, rows in SUBSETS.items()},
    )
    assert [ref.name for ref in find_collections(languages)] == ["many/en", "many/de"]
    assert find_collections(languages)[1].open().dataset() == DATASET


def test_dataset_in_the_cache_without_the_hub(tmp_path: Path) -> None:
    """The cache as an earlier run with a network left it."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    subsets = {"corpus": {"corpus": CORPUS_ROWS}, "queries": {"queries": QUERY_ROWS}}
    for name, configs in (("Cached", subsets), ("Cached-qrels", {"default": {"test": QRELS_ROWS}})):
        copy = save_hub(tmp_path / name, configs).removeprefix("hf:")
        for subset in configs:
            datasets.load_dataset(copy, subset)
        (cache / name.lower()).rename(cache / f"raycol___{name.lower()}")
    collection = only("hf:raycol/Cached")
    assert (collection.name, collection.dataset()) == ("Cached", DATASET)


def test_nanobeir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = [{name: row[name] for name in ("query-id", "corpus-id")} for row in QRELS_ROWS]
    subsets = {**SUBSETS, "qrels": binary}
    nano = {name: {"NanoSciFact": rows, "NanoNQ": rows} for name, rows in subsets.items()}
    save_hub(tmp_path / "sentence-transformers" / "NanoBEIR-en", nano)
    monkeypatch.chdir(tmp_path)  # where a dataset's name is the path of its copy
    collections = [ref.open() for ref in find_collections("nanobeir")]
    assert [collection.name for collection in collections] == ["NanoSciFact", "NanoNQ"]
    assert collections[0].qrels == {"q1": {"d1": 1}, "q2": {"d2": 1, "d1": 1}}
    assert [passage.id for passage in collections[1].passages()] == ["d1", "d2", "d3"]
    assert only("nanobeir/scifact").name == only("nanobeir/NanoSciFact").name == "NanoSciFact"
    assert only("nanobeir", "NanoNQ").name == "NanoNQ"
    assert refusal("nanobeir/nothing") == "nanobeir/nothing: no such collection; nanobeir has NanoSciFact, NanoNQ"
    assert "no split 'test'; each split is a collection: NanoSciFact, NanoNQ" in refusal("nanobeir", "test")


def test_bright(tmp_path: Path) -> None:
    documents = [{"id": passage.id, "content": passage.content} for passage in PASSAGES]
    examples = [
        {"query": "why", "id": "0", "excluded_ids": ["N/A"], "gold_ids": ["d1", "d2"], "gold_answer": "x"},
        {"query": "how", "id": "1", "excluded_ids": ["d2", "d3"], "gold_ids": ["d1", "d1"], "gold_answer": "y"},
    ]
    uri = save_hub(
        tmp_path / "BRIGHT",
        {"documents": {"biology": documents, "pony": documents[:1]},
         "examples": {"biology": examples, "pony": examples[:1]}},
    )  # fmt: skip
    assert [ref.name for ref in find_collections(uri)] == ["BRIGHT/biology", "BRIGHT/pony"]
    collection = only(uri, "biology")
    assert collection.queries == {"0": "why", "1": "how"}
    assert collection.qrels == {"0": {"d1": 1, "d2": 1}, "1": {"d1": 1}}
    assert collection.excluded == {"1": {"d2", "d3"}}
    assert collection.notes == ("1 of 2 queries exclude documents, which do not count as their hits",)
    assert [passage.content for passage in collection.passages()] == ["one", "Two two", "three"]


def test_beir_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = find_collections("beir")
    assert len({ref.name for ref in refs}) == len(refs) == 26
    groups = [ref.name for ref in refs if ref.group == "cqadupstack"]
    assert groups == [ref.name for ref in find_collections("beir/cqadupstack")]
    assert len(groups) == 12
    assert groups[0] == "cqadupstack/android"
    default = {name: {"test": rows, "dev": rows} for name, rows in SUBSETS.items()}
    for name in ("cqadupstack-android", "msmarco"):
        save_hub(tmp_path / "mteb" / name, {**default, "qrels": {"dev": QRELS_ROWS[:1], "test": QRELS_ROWS}})
    monkeypatch.chdir(tmp_path)
    forum = only("beir/cqadupstack/android")
    assert (forum.group, forum.location) == ("cqadupstack", "hf:mteb/cqadupstack-android")
    assert forum.dataset() == DATASET
    assert only("beir/msmarco").queries == {"q1": "first"}, "the development set"
    assert only("beir/msmarco", "test").queries == QUERIES


def test_dataset_of_another_layout(tmp_path: Path) -> None:
    uri = save_hub(tmp_path / "pairs", {"train": {"train": QUERY_ROWS}})
    assert refusal(uri).startswith(f"{uri}: has the subsets train; expected corpus, queries and qrels (as in BEIR")
    assert "cannot be opened" in refusal(f"hf:{tmp_path}/gone")
    assert "cannot be opened" in refusal(save_hub(tmp_path / "half", {"corpus": {"corpus": CORPUS_ROWS}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qrels": [{"query-id": "q1", "score": 1}]}, "no query-id and corpus-id among its columns query-id, score"),
        (
            {"qrels": [{"query-id": "q1", "corpus-id": "d1", "score": None}]},
            "row 1: 'score' is None; expected a grade",
        ),
        ({"qrels": [{"query-id": "", "corpus-id": "d1", "score": 1}]}, "row 1: 'query-id' is ''; expected an id"),
        ({"qrels": [{"query-id": "q1", "corpus-id": None, "score": 1}]}, "row 1: 'corpus-id' is None; expected an id"),
        ({"qrels": [*QRELS_ROWS, {"query-id": "q1", "corpus-id": "d1", "score": 0}]}, "document 'd1' has grade 0"),
        ({"qrels": [{"query-id": "q7", "corpus-id": "d1", "score": 1}]}, "no query 'q7', which is judged"),
        ({"queries": [{"_id": "q1", "text": " "}]}, "row 1: query 'q1' has no text"),
        ({"queries": [{"_id": "q1", "body": "x"}]}, "no column for the id or the text of queries among _id, body"),
    ],
)
def test_bad_hub_dataset(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    subsets = SUBSETS | change
    assert message in refusal(save_hub(tmp_path / "bad", {name: {"test": rows} for name, rows in subsets.items()}))


def test_grades_of_a_table(tmp_path: Path) -> None:
    """Integers as ids, floats as grades, and lists of documents."""
    rows = [
        {"query-id": 1, "corpus-id": [1, 2], "score": 1.0},
        {"query-id": 2, "corpus-id": [2], "score": 0.5},
    ]
    subsets = {
        "corpus": [{"_id": 1, "text": "one"}, {"_id": 2, "text": "two"}],
        "queries": [{"_id": 1, "text": "first"}, {"_id": 2, "text": "second"}],
        "qrels": rows,
    }
    collection = only(save_hub(tmp_path / "x", {name: {"test": rows} for name, rows in subsets.items()}))
    assert collection.qrels == {"1": {"1": 1, "2": 1}, "2": {"2": 0}}
    fractions, irrelevant = collection.notes
    assert fractions.startswith("1 of 3 grades of ")
    assert irrelevant.startswith("1 of 2 queries have no document with a grade above 0")


# MS MARCO

COLLECTION = '0\tone passage\n1\tanother, "quoted"\n2\tthree\n'


@pytest.fixture
def msmarco(tmp_path: Path) -> Path:
    (tmp_path / "collection.tsv").write_text(COLLECTION)
    (tmp_path / "queries.tsv").write_text("7\twhat is one\n8\twhat is three\n9\tunjudged\n")
    (tmp_path / "qrels.tsv").write_text("7\t0\t0\t1\n8\t0\t2\t1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "qrels"),
    [
        ("qrels.tsv", "7\t0\t0\t1\n8\t0\t2\t1\n"),
        ("qrels.tsv", "7\t0\t1\n8\t2\t1\n"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n7\t0\t1\n8\t2\t1\n"),
        ("qrels.tsv", "qid\titeration\tpid\trelevance\n7\t0\t0\t1\n8\t0\t2\t1\n"),
        ("qrels.txt", "7 Q0 0 1\n8 Q0 2 1\n"),
        ("qrels.dev.small.tsv", "7\t0\t0\t1\n8\t0\t2\t1\n"),
        ("qrels.test.trec", "7 0 0 1\n8 0 2 1\n"),
    ],
)
def test_msmarco_qrels(msmarco: Path, name: str, qrels: str) -> None:
    (msmarco / "qrels.tsv").unlink()
    (msmarco / name).write_text(qrels)
    collection = only(msmarco)
    assert collection.queries == {"7": "what is one", "8": "what is three"}
    assert collection.qrels == {"7": {"0": 1}, "8": {"2": 1}}
    assert [passage.text for passage in collection.passages()] == ["one passage", 'another, "quoted"', "three"]
    (note,) = collection.notes
    assert note == f"1 of 3 queries of {msmarco}/queries.tsv have no judgements and are left out"


def test_msmarco_splits_headers_and_compression(msmarco: Path) -> None:
    (msmarco / "queries.dev.tsv").write_text("id\ttext\n8\twhat is three\n")
    (msmarco / "qrels.dev.tsv.gz").write_bytes(gzip.compress(b"8\t0\t2\t1\n"))
    (msmarco / "collection.tsv").unlink()
    (msmarco / "collection.tsv.gz").write_bytes(gzip.compress(b"id\ttext\n" + COLLECTION.encode()))
    dev = only(msmarco, "dev")
    assert (dev.queries, dev.notes) == ({"8": "what is three"}, ())
    assert len(list(dev.passages())) == 3
    assert only(msmarco).queries.keys() == {"7", "8"}
    assert "no judgements of the split 'test'; existing judgements: qrels.dev.tsv, qrels.tsv" in refusal(
        msmarco, "test"
    )
    (msmarco / "qrels.tsv").rename(msmarco / "qrels.train.tsv")
    assert "the split 'test'; existing judgements: qrels.dev.tsv, qrels.train.tsv" in refusal(msmarco)


def test_incomplete_msmarco_folder(msmarco: Path) -> None:
    (msmarco / "queries.tsv").unlink()
    assert refusal(msmarco) == f"{msmarco}/queries.tsv: no such file"
    (msmarco / "qrels.tsv").unlink()
    assert refusal(msmarco) == f"{msmarco}: no judgements of the split 'test'; it has no judgements"


# Folders of collections, and names


def test_folder_of_collections(tmp_path: Path) -> None:
    for name in ("scifact", "cqadupstack/android", "cqadupstack/english", "fiqa"):
        save_beir(tmp_path / name, DATASET, "dev" if name == "fiqa" else "test")
    (tmp_path / "README.md").write_text("BEIR")
    refs = find_collections(str(tmp_path))
    assert [(ref.name, ref.group) for ref in refs] == [
        ("cqadupstack/android", "cqadupstack"),
        ("cqadupstack/english", "cqadupstack"),
        ("fiqa", None),
        ("scifact", None),
    ]
    assert all(ref.open().dataset() == DATASET for ref in refs)
    assert f"{tmp_path}/fiqa: no judgements of the split 'test'; existing judgements: dev.tsv" in refusal(
        tmp_path, "test"
    )


def test_folder_named_like_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_beir(tmp_path / "beir" / "scifact", DATASET)
    monkeypatch.chdir(tmp_path)
    assert [ref.name for ref in find_collections("beir")] == ["scifact"]
    assert only("beir/scifact").dataset() == DATASET


def test_unknown_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone").startswith(f"{tmp_path}/gone: no such folder; expected a BEIR folder")
    assert refusal(tmp_path).startswith(f"{tmp_path}: holds no test collection; expected a BEIR folder")
    (tmp_path / "file").write_text("")
    assert "is a file; expected a BEIR folder" in refusal(tmp_path / "file")
    assert "or a benchmark (beir, nanobeir, bright)" in refusal("scifakt")
    assert refusal("beir/nothing").startswith("beir/nothing: no such collection; beir has msmarco, trec-covid")


# The corpus


def test_survey_counts_what_the_corpus_lacks_and_copies(tmp_path: Path) -> None:
    passages = [Passage("q1", "Title", "first"), Passage("q2", "", "another text"), Passage("q3", "", "Third  one")]
    qrels = {"q1": {"q2": 1, "gone": 1}, "q2": {"q1": 1}, "q3": {"q3": 1}}
    save_beir(tmp_path, Dataset(passages, {"q1": "title first", "q2": "second", "q3": "third one"}, qrels))
    collection = only(tmp_path)
    survey = CorpusSurvey(collection)
    for passage in collection.passages():
        survey.add(passage)
    assert survey.documents == 3
    assert survey.copies == {"q1"}, "not q2, of another text, nor q3, which is judged"
    (note,) = survey.notes()
    assert note.startswith("1 of 4 judged documents, such as 'gone', are not in the corpus of ")
    (tmp_path / "corpus.jsonl").write_text('{"_id": "x", "text": "other"}\n')
    with pytest.raises(InputError, match="none of the 4 judged documents"):
        collection.dataset()


def test_passages_are_read_one_at_a_time(tmp_path: Path) -> None:
    save_beir(tmp_path, DATASET)
    collection = only(tmp_path)
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write("not a record\n")
    passages = collection.passages()
    assert [next(passages).id for _ in PASSAGES] == ["d1", "d2", "d3"]
    with pytest.raises(InputError, match="line 4: not JSON"):
        next(passages)
    assert [skipped.where for skipped in collection.dataset("skip").skipped] == [f"{tmp_path}/corpus.jsonl, line 4"]


# ir_datasets


def test_ir_datasets(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tone\nd2\tTwo two\nd3\tthree\n")
    (tmp_path / "queries.tsv").write_text("q1\tfirst\nq2\tsecond\nq3\tunjudged\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq2 0 d2 2\nq2 0 d1 0\n")
    files = {"docs_tsv": tmp_path / "docs.tsv", "queries_tsv": tmp_path / "queries.tsv"}
    ir_datasets.registry.register("raycol-test", ir_datasets.create_dataset(**files))
    judged = ir_datasets.create_dataset(**files, qrels_trec=tmp_path / "qrels")
    ir_datasets.registry.register("raycol-test/judged", judged)
    collection = only("ir:raycol-test/judged")
    assert (collection.name, collection.location) == ("raycol-test/judged", "ir:raycol-test/judged")
    assert (collection.queries, collection.qrels) == (QUERIES, QRELS)
    assert collection.notes == ("1 of 3 queries of ir:raycol-test/judged have no judgements and are left out",)
    contents = [passage.content for passage in collection.passages()]
    assert contents == ["one", "Two two", "three"]
    # A job cuts the corpus into parts, which its workers read.
    plan = plan_build(collection.corpus_files, collection.fields, docs_per_partition=2)
    assert [[passage.content for _, passage in read_part(part, plan.fields)] for part in plan.parts] == [
        ["one", "Two two"], ["three"]
    ]  # fmt: skip
    (file,) = collection.corpus_files
    assert file.reader.count(file) == 3
    assert refusal("ir:raycol-test") == (
        "ir:raycol-test: has no judgements or no queries; choose one of raycol-test/judged"
    )
    assert "includes its split; leave `split='dev'` out" in refusal("ir:raycol-test/judged", "dev")
    assert "ir_datasets has no 'raycol-test/gone'" in refusal("ir:raycol-test/gone")
    (tmp_path / "qrels").write_text("q1 0 d1\n")
    assert "ir:raycol-test/judged: cannot be read (" in refusal("ir:raycol-test/judged")


@pytest.mark.skipif(find_spec("ir_datasets") is not None, reason="ir_datasets is installed")
def test_ir_datasets_is_an_extra() -> None:
    assert refusal("ir:vaswani") == "ir:vaswani: needs ir_datasets; install it with pip install 'raycol[ir]'"
