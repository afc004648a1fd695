"""The estimates of `raycol index plan`, compared with builds of the same corpus."""

import bz2
import gzip
import json
import lzma
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import Fields, corpus_files
from raycol.errors import InputError
from raycol.index.codec.training import train_codebook
from raycol.indexing.config import PlanConfig
from raycol.indexing.estimate import Estimate, estimate_build
from raycol.indexing.part import BuiltPart, PartSettings, build_partition
from raycol.indexing.plan import plan_build
from raycol.indexing.sampling import sample_corpus
from raycol.storage import open_store
from tests.conftest import TOPICS, make_clustered, save_encoded

WORDS = " ".join(TOPICS.values()).split()
DOCUMENTS = 6000


def records() -> list[dict[str, str]]:
    """Texts that get longer along the corpus, so that a sample of its beginning would be biased."""
    rng = np.random.default_rng(0)
    lengths = rng.poisson(2 + 8 * np.arange(DOCUMENTS) / DOCUMENTS) + 1
    return [{"_id": f"d{n}", "text": " ".join(rng.choice(WORDS, length))} for n, length in enumerate(lengths)]


def lines_of(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def save_lines(folder: Path) -> None:
    (folder / "c.jsonl").write_bytes(lines_of(records()))


def save_compressed(folder: Path) -> None:
    for start in range(0, DOCUMENTS, 500):
        (folder / f"{start:05d}.jsonl.gz").write_bytes(gzip.compress(lines_of(records()[start : start + 500])))


def save_table(folder: Path) -> None:
    rows = records()
    table = pa.table({"id": [row["_id"] for row in rows], "text": [row["text"] for row in rows]})
    for start in range(0, DOCUMENTS, 1500):
        pq.write_table(table.slice(start, 1500), folder / f"{start:05d}.parquet")


def build(folder: Path, config: PlanConfig, encoder: object) -> list[BuiltPart]:
    """Build all parts of a corpus, with a new codebook."""
    plan = plan_build(corpus_files(str(folder)), config.fields(), config.docs_per_partition)
    dim = 16 if encoder else 32
    tokens = np.concatenate(make_clustered(100, dim, seed=9)).astype(np.float16)
    codebook = train_codebook(tokens, bits=config.bits, n_centroids=64, seed=0)
    columns = {"title": "string", "text": "string"} if config.store_text else {}
    settings = PartSettings(config.fields(), columns, 4096, config.pool_factor, "fail", 0)
    store = open_store(str(folder / "index"))
    return [build_partition(part, settings, codebook, store, encoder) for part in plan.parts]


def check(estimate: Estimate, built: list[BuiltPart], within: float) -> None:
    infos = [part.info for part in built if part.info]
    stored = sum(file.bytes for info in infos for file in info.files.values())
    for estimated, actual in (
        (estimate.documents, sum(info.documents for info in infos)),
        (estimate.tokens, sum(info.tokens for info in infos)),
        (estimate.index_bytes, stored),
    ):
        assert actual * (1 - within) < estimated < actual * (1 + within), (estimate, actual)
    assert abs(estimate.parts - len(built)) <= 1
    assert 0 < estimate.partitions <= estimate.parts
    assert estimate.worker_bytes > 0
    assert estimate.driver_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("save", [pytest.param(save_compressed, marks=pytest.mark.long), save_lines, save_table])
def test_estimates_of_a_corpus_are_close(tiny_colbert: Path, tmp_path: Path, save: object) -> None:
    from raycol.models.encoder import load_encoder

    save(tmp_path)
    config = PlanConfig(corpus=str(tmp_path), model=str(tiny_colbert), docs_per_partition=1024)
    estimate = estimate_build(config)
    check(estimate, build(tmp_path, config, load_encoder(tiny_colbert, device="cpu")), 0.12)
    assert estimate.encoded_per_second > 0
    # The sample's tokens are encoded twice.
    encoding_s = estimate.tokens / estimate.encoded_per_second
    assert (
        encoding_s
        < estimate.worker_hours * 3600
        < 2.5 * (encoding_s + estimate.tokens / estimate.quantised_per_second)
    )


@pytest.mark.slow
def test_estimates_of_an_encoded_corpus_are_close(tmp_path: Path) -> None:
    documents = make_clustered(3000, 32, seed=1)
    save_encoded(tmp_path / "c.npz", documents)
    config = PlanConfig(corpus=str(tmp_path), docs_per_partition=1000, bits=2)
    estimate = estimate_build(config)
    check(estimate, build(tmp_path, config, None), 0.12)
    assert estimate.encoded_per_second == 0


def save_growing(path: Path, n: int = 4000) -> int:
    """Write an encoded corpus whose documents get longer; return its number of tokens."""
    lengths = np.arange(n) // 200 + 1
    tokens = np.random.default_rng(0).standard_normal((int(lengths.sum()), 8)).astype(np.float32)
    ids = [f"d{number}" for number in range(n)]
    documents = [each.tolist() for each in np.split(tokens, np.cumsum(lengths)[:-1])]
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), lengths=lengths, embeddings=tokens)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"id": ids, "embeddings": documents}), path)
    elif path.suffix == ".jsonl":
        records = [{"id": id_, "embeddings": rows} for id_, rows in zip(ids, documents, strict=True)]
        path.write_bytes(lines_of(records))
    else:
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset.from_dict({"id": ids, "embeddings": documents}).save_to_disk(path)
    return len(tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c.npz", "c.parquet", "c.jsonl", "saved"])
def test_a_sorted_corpus_is_sampled_evenly(tmp_path: Path, name: str) -> None:
    n_tokens = save_growing(tmp_path / name)
    estimate = estimate_build(PlanConfig(corpus=str(tmp_path / name)))
    assert abs(estimate.documents / 4000 - 1) < (0.15 if name == "c.jsonl" else 1e-9)
    assert abs(estimate.tokens / n_tokens - 1) < 0.15
    assert estimate.sampled <= 1040


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c.json", "quoted.tsv", "c.jsonl.bz2", "c.jsonl.xz", "c.jsonl.zst"])
def test_sequential_formats_are_sampled_from_their_beginning(tmp_path: Path, name: str) -> None:
    """In a JSON array or quoted TSV, a line need not be a record."""
    records = [{"id": str(number), "text": f"a text\n{number} with a line break" * 40} for number in range(3000)]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    path = tmp_path / name
    if name == "c.json":
        path.write_text(json.dumps(records, indent=1))
    elif name == "quoted.tsv":
        path.write_text("".join(f'{record["id"]}\t"{record["text"]}"\n' for record in records))
    else:
        compress = {
            "bz2": bz2.compress,
            "xz": partial(lzma.compress, preset=0),
            "zst": lambda content: pa.compress(content, "zstd"),
        }
        path.write_bytes(compress[name.rpartition(".")[2]](lines))
    sample = sample_corpus(corpus_files(str(path)), Fields(), "fail")
    assert [passage.text for _, passage in sample.passages] == [record["text"] for record in records[:1024]]
    assert abs(sample.records / 3000 - 1) < (0.3 if "jsonl" in name else 0.05)


def test_a_sorted_tsv_is_sampled_evenly(tmp_path: Path) -> None:
    rows = [f"{number}\t{'x' * (number // 10 + 1)}\n" for number in range(5000)]
    path = tmp_path / "c.tsv"
    path.write_text("".join(rows))
    sample = sample_corpus(corpus_files(str(path)), Fields(make_ids=""), "fail")
    assert abs(sample.records / 5000 - 1) < 0.2
    characters = [len(passage.text) for _, passage in sample.passages]
    assert abs(np.mean(characters) / 250 - 1) < 0.2
    assert len(sample.passages) > 1000


def save_bad(path: Path, *bad: object) -> Path:
    good = np.ones((2, 16)).tolist()
    tokens = [good if number % 2 else bad[number // 2 % len(bad)] for number in range(1, 41)]
    kind = pa.list_(pa.list_(pa.float32()))
    ids = [f"d{number}" for number in range(1, 41)]
    pq.write_table(pa.table({"id": ids, "embeddings": pa.array(tokens, kind)}), path)
    return path


def test_the_plan_skips_the_records_that_the_build_skips(tmp_path: Path) -> None:
    bad: list[Any] = [np.full((1, 16), np.nan).tolist(), np.ones((9, 8)).tolist(), None]
    path = save_bad(tmp_path / "c.parquet", *bad)
    with pytest.raises(InputError, match=rf"{path}, row 2: document 'd2': .*`on_error='skip'`"):
        estimate_build(PlanConfig(corpus=str(path)))
    estimate = estimate_build(PlanConfig(corpus=str(path), on_error="skip"))
    assert (estimate.documents, estimate.tokens, estimate.sampled) == (20, 40, 20)
    only_bad = save_bad(tmp_path / "b.parquet", None)
    pq.write_table(pq.read_table(only_bad).slice(1, 1), only_bad)
    with pytest.raises(InputError, match=r"row 1: document 'd2' has no embeddings; to encode texts, name a model"):
        estimate_build(PlanConfig(corpus=str(only_bad), on_error="skip"))


def test_the_plan_refuses_the_dimensions_that_the_build_does(tmp_path: Path) -> None:
    path = save_encoded(tmp_path / "c.npz", make_clustered(9, 12, seed=0))
    with pytest.raises(InputError, match="embeddings of 12 dimensions; expected a multiple of 8"):
        estimate_build(PlanConfig(corpus=str(path)))


def test_the_plan_uses_sample_documents(tmp_path: Path) -> None:
    path = save_encoded(tmp_path / "c.npz", [np.ones((10, 16), np.float32)] * 2000)
    estimates = [estimate_build(PlanConfig(corpus=str(path), sample_documents=n)) for n in (None, 16)]
    assert [estimate.n_centroids for estimate in estimates] == [2048, 16]


def test_unusable_lines_are_reported_or_skipped(tiny_colbert: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "c.jsonl").write_bytes(lines_of(records()[:50]) + b"oops\n" * 50)
    config = PlanConfig(corpus=str(tmp_path), model=str(tiny_colbert))
    with pytest.raises(InputError, match=r"c\.jsonl, (line 51|the line at byte \d+): not JSON .*`on_error='skip'`"):
        estimate_build(config)
    estimate = estimate_build(config.model_copy(update={"on_error": "skip"}))
    assert (estimate.documents, estimate.sampled) == (50, 50)


def test_a_corpus_without_a_usable_document_cannot_be_planned(tiny_colbert: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "text": ""}\n')
    config = PlanConfig(corpus=str(tmp_path), model=str(tiny_colbert), on_error="skip")
    with pytest.raises(InputError, match=r"an empty corpus; .* the first was .*c\.jsonl, line 1: document 'a' has no"):
        estimate_build(config)
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(InputError, match=r"c\.jsonl: an empty corpus"):
        estimate_build(config)
