"""Building and appending in this process, and the same bytes from Ray workers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycol import indexing
from raycol.distributed.executor import IN_PROCESS, ON_RAY, WorkersConfig, choose_executor
from raycol.errors import InputError
from raycol.index import Index
from raycol.indexing import AppendConfig, BuildReport, CompactConfig, IndexConfig
from tests.conftest import make_clustered, make_passages, save_encoded, write_jsonl
from tests.indexing.cluster import contents
from tests.indexing.in_process import append_corpus, build_index, compact_index


def configured(corpus: Path, model: Path, out: Path, **settings) -> IndexConfig:
    return IndexConfig(corpus=corpus, model=str(model), out=out, **{"docs_per_partition": 16, **settings})


def build(corpus: Path, model: Path, out: Path, **settings) -> BuildReport:
    return build_index(configured(corpus, model, out, **settings))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("build") / "corpus.jsonl", make_passages(60))


@pytest.fixture(scope="module")
def built(corpus: Path, tiny_colbert: Path) -> Path:
    """An index of the corpus."""
    report = build(corpus, tiny_colbert, corpus.parent / "index", bits=8)
    assert (report.documents, report.parts, report.reused_parts, report.partitions) == (60, 4, 0, 4)
    assert list(report.stage_seconds) == ["plan", "sample", "train", "encode", "merge", "commit"]
    assert sum(report.stage_seconds.values()) < report.seconds
    stages = ["read", "tokenise", "encode", "pool", "quantise", "write"]
    assert list(report.cpu_seconds) == ["plan", "train", "sample", *stages]
    assert set(report.busy_workers) == {"read", "encode", "write"}
    assert 0 < report.encoding_share <= 1
    assert all(seconds >= 0 for seconds in report.cpu_seconds.values())
    assert list(report.stage_tokens_per_second) == ["sample", "encode"]
    assert report.peak_worker_bytes > 1 << 20
    return corpus.parent / "index"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("workers", [{"num_workers": 2}, {"num_workers": 1, "cpu_workers": 1}], ids=["two", "stages"])
def test_ray_workers_build_the_same_bytes(
    corpus: Path, built: Path, tiny_colbert: Path, tmp_path: Path, workers: dict[str, int]
) -> None:
    """Two workers on Ray, or one beside processes that read and write, build the same index as this process."""
    out = tmp_path / "i"
    report = indexing.build_index(configured(corpus, tiny_colbert, out, bits=8, **workers), executor=ON_RAY)
    assert (report.documents, report.parts, report.partitions) == (60, 4, 4)
    assert report.peak_worker_bytes > 1 << 20
    assert contents(out) == contents(built)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_ray_workers_append_the_same_bytes_and_report_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses encoded documents, for which workers need no model and start fast."""
    documents = make_clustered(60, 16, seed=0)
    first, more, bad = (tmp_path / name for name in ("first.npz", "more.npz", "bad.npz"))
    save_encoded(first, documents[:40])
    save_encoded(more, documents[40:], [f"more{n}" for n in range(20)])
    save_encoded(bad, [np.full((2, 16), np.nan, np.float32), *documents[:3]], ["nan", "x", "y", "z"])
    for where, build_, append in (
        ("ray", indexing.build_index, indexing.append_corpus),
        ("in-process", build_index, append_corpus),
    ):
        out = str(tmp_path / where)
        build_(IndexConfig(corpus=str(first), out=out, docs_per_partition=10, num_workers=2))
        append(AppendConfig(index=out, corpus=str(more), docs_per_partition=5, num_workers=2))
    assert len(Index.open(tmp_path / "ray")) == 60
    assert contents(tmp_path / "ray") == contents(tmp_path / "in-process")
    monkeypatch.setattr("raycol.indexing.compact._MAX_DRIVER_TOKENS", 0)
    for where, compact in (("ray", indexing.compact_index), ("in-process", compact_index)):
        report = compact(CompactConfig(index=str(tmp_path / where), target_tokens=200, num_workers=2))
        assert report.version == 3
    assert contents(tmp_path / "ray") == contents(tmp_path / "in-process")
    with pytest.raises(InputError, match=r"bad\.npz, row 1: .*NaN.* `on_error='skip'`"):
        indexing.append_corpus(AppendConfig(index=out, corpus=str(bad), num_workers=1))


def test_append_refuses_settings_without_effect(built: Path, corpus: Path) -> None:
    config = AppendConfig(index=str(built), corpus=str(corpus), embeddings_column="vectors")
    with pytest.raises(InputError, match="embeddings_column has no effect: the index has a model, which encodes"):
        append_corpus(config)


def test_an_index_reconstructs_the_encoder_embeddings(corpus: Path, built: Path, tiny_colbert: Path) -> None:
    from raycol.data import read_corpus
    from raycol.models.encoder import load_encoder

    index = Index.open(built)
    encoder = load_encoder(tiny_colbert, device="cpu")
    passages = list(read_corpus(corpus))
    for passage in passages[::10]:
        tokens = encoder.encode_document(passage.content, convert_to_numpy=True)
        cosines = (index.reconstruct(passage.id) * tokens).sum(axis=1)
        assert cosines.min() > 0.95
        assert cosines.mean() > 0.99
        assert index.metadata([passage.id]) == [{"title": passage.title, "text": passage.text}]
    query = encoder.encode_query(passages[7].content, convert_to_numpy=True)
    assert index.search([query], n_rescore=60) == index.exact([query])
    assert index.exact([query])[0][0].score > index.exact([query])[0][9].score
    assert index.verify() == []
    left = {path.name for path in built.iterdir()}
    assert left == {"manifests", "partitions", "codebooks", "build-report.json"}


def test_a_build_does_not_overwrite_a_finished_index(corpus: Path, built: Path, tiny_colbert: Path) -> None:
    before = contents(built)
    with pytest.raises(InputError, match="already holds an index"):
        build(corpus, tiny_colbert, built)
    assert contents(built) == before


@pytest.mark.slow
def test_skipped_records_are_reported_and_the_rest_is_pooled(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.models.encoder import load_encoder

    path = write_jsonl(tmp_path / "corpus.jsonl", make_passages(20))
    path.write_text("oops\n" + path.read_text() + '{"_id": "empty", "text": " "}\n')
    with pytest.raises(InputError, match=r"line 1: not JSON .* `on_error='skip'`"):
        build(path, tiny_colbert, tmp_path / "i")
    assert not (tmp_path / "i").exists()
    report = build(path, tiny_colbert, tmp_path / "i", on_error="skip", store_text=False, pool_factor=2)
    assert report.documents == 20
    assert [problem.where.split(", ")[1] for problem in report.skipped] == ["line 1", "line 22"]
    index = Index.open(tmp_path / "i")
    assert index.manifest.columns == {}
    passage = make_passages(20)[7]
    encoder = load_encoder(tiny_colbert, device="cpu")
    tokens = encoder.encode_document(f"{passage['title']} {passage['text']}", convert_to_numpy=True)
    assert len(index.reconstruct(passage["_id"])) == 1 + (len(tokens) - 1) // 2


def test_a_corpus_is_appended_and_upserted(built: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    shutil.copytree(built, out)
    again = [record | {"text": "violin piano"} for record in make_passages(3)]
    partly_file = write_jsonl(tmp_path / "partly.jsonl", [*again[:2], {"_id": "last", "text": "fog"}])
    mixed_file = write_jsonl(tmp_path / "mixed.jsonl", [{"_id": "first", "text": "rain"}, *again])
    settings = {"index": str(out), "docs_per_partition": 2}
    with pytest.raises(InputError, match=r"mixed\.jsonl, line 2: .* is already in the index .*; `upsert=True` repl"):
        append_corpus(AppendConfig(corpus=mixed_file, **settings))
    report = append_corpus(AppendConfig(corpus=partly_file, on_error="skip", **settings))
    skipped = [problem.where.split(", ")[1] for problem in report.skipped]
    assert (report.version, report.documents, report.replaced, skipped) == (2, 1, 0, ["line 1", "line 2"])
    report = append_corpus(AppendConfig(corpus=mixed_file, upsert=True, **settings))
    assert (report.version, report.documents, report.parts, report.replaced) == (3, 4, 2, 3)
    index = Index.open(out)
    assert len(index) == 62
    assert [row["text"] for row in index.metadata([record["_id"] for record in again])] == ["violin piano"] * 3
    assert index.verify() == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_corpus_of_one_document(tmp_path: Path) -> None:
    """With a memory resource for the worker."""
    save_encoded(tmp_path / "corpus.npz", make_clustered(1, 16, seed=0))
    settings = {"num_workers": 1, "resources": {"CPU": 1, "memory": 1e8}}
    config = IndexConfig(corpus=str(tmp_path / "corpus.npz"), out=str(tmp_path / "i"), **settings)
    report = indexing.build_index(config)
    assert (report.documents, len(Index.open(tmp_path / "i"))) == (1, 1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_one_part_is_built_without_ray_and_with_its_bytes(tmp_path: Path) -> None:
    save_encoded(tmp_path / "corpus.npz", make_clustered(20, 16, seed=0))
    code = (
        "import sys; sys.modules['ray'] = None\n"  # any import of Ray would fail
        "from raycol.indexing import IndexConfig, build_index\n"
        "build_index(IndexConfig(corpus='corpus.npz', out='chosen'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    indexing.build_index(IndexConfig(corpus=str(tmp_path / "corpus.npz"), out=str(tmp_path / "ray")), executor=ON_RAY)
    assert contents(tmp_path / "chosen") == contents(tmp_path / "ray")


def test_progress_moves_within_a_part(tmp_path: Path, tiny_colbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycol.distributed.running_progress.INTERVAL_S", 0.0)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_passages(60))
    done: list[float] = []

    def record(amount: float, total: float | None = None, note: str = "") -> None:
        if note == "encoding":
            done.append(amount)

    build_index(IndexConfig(corpus=corpus, model=str(tiny_colbert), out=tmp_path / "i", batch_tokens=200), record)
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == 60


def test_a_setting_of_the_workers_or_a_cluster_chooses_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert choose_executor(WorkersConfig(), 1) is IN_PROCESS
    assert choose_executor(WorkersConfig(), 2) is ON_RAY
    assert choose_executor(WorkersConfig(num_workers=1), 1) is ON_RAY
    assert choose_executor(WorkersConfig(resources={"CPU": 1, "GPU": 1}), 1) is ON_RAY
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert choose_executor(WorkersConfig(), 1) is ON_RAY
