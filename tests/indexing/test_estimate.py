"""What `raycol index plan` says, beside what a build then makes of the corpus."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import corpus_files
from raycol.errors import InputError
from raycol.index.codebook import train_codebook
from raycol.index.storage import open_store
from raycol.indexing.config import PlanConfig
from raycol.indexing.estimate import Estimate, estimate_build
from raycol.indexing.part import Built, Task, build_partition
from raycol.indexing.plan import plan_build
from tests.conftest import TOPICS, make_clustered, save_encoded

WORDS = " ".join(TOPICS.values()).split()
DOCUMENTS = 6000


def records() -> list[dict[str, str]]:
    """Texts that grow along the corpus: a sample of its beginning would be wrong about the rest."""
    rng = np.random.default_rng(0)
    lengths = rng.poisson(2 + 8 * np.arange(DOCUMENTS) / DOCUMENTS) + 1
    return [{"_id": f"d{n}", "text": " ".join(rng.choice(WORDS, length))} for n, length in enumerate(lengths)]


def lines_of(some: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in some).encode()


def save_lines(folder: Path) -> None:
    (folder / "c.jsonl").write_bytes(lines_of(records()))


def save_compressed(folder: Path) -> None:
    for start in range(0, DOCUMENTS, 500):
        (folder / f"{start:05d}.jsonl.gz").write_bytes(gzip.compress(lines_of(records()[start : start + 500])))


def save_table(folder: Path) -> None:
    made = records()
    table = pa.table({"id": [record["_id"] for record in made], "text": [record["text"] for record in made]})
    for start in range(0, DOCUMENTS, 1500):
        pq.write_table(table.slice(start, 1500), folder / f"{start:05d}.parquet")


def build(folder: Path, config: PlanConfig, encoder: object) -> list[Built]:
    """The parts of a build, with a codebook of its own."""
    plan = plan_build(corpus_files(str(folder)), config.fields(), config.docs_per_partition)
    dim = 16 if encoder else 32
    tokens = np.concatenate(make_clustered(100, dim, seed=9)).astype(np.float16)
    codebook = train_codebook(tokens, bits=config.bits, n_centroids=64, seed=0)
    columns = {"title": "string", "text": "string"} if config.store_text else {}
    task = Task(config.fields(), columns, 4096, config.pool_factor, "fail", 0)
    store = open_store(str(folder / "index"))
    return [build_partition(part, task, codebook, store, encoder) for part in plan.parts]


def check(estimate: Estimate, built: list[Built], within: float) -> None:
    infos = [part.info for part in built if part.info]
    stored = sum(file.bytes for info in infos for file in info.files.values())
    for said, found in (
        (estimate.documents, sum(info.documents for info in infos)),
        (estimate.tokens, sum(info.tokens for info in infos)),
        (estimate.index_bytes, stored),
    ):
        assert found * (1 - within) < said < found * (1 + within), (estimate, found)
    assert abs(estimate.parts - len(built)) <= 1
    assert 0 < estimate.partitions <= estimate.parts
    assert estimate.worker_bytes > 0
    assert estimate.driver_bytes > 0


@pytest.mark.parametrize("save", [save_lines, save_compressed, save_table])
def test_the_plan_of_a_corpus_is_about_right(tiny_colbert: Path, tmp_path: Path, save: object) -> None:
    from raycol.models import load_encoder

    save(tmp_path)
    config = PlanConfig(corpus=str(tmp_path), model=str(tiny_colbert), docs_per_partition=1024)
    estimate = estimate_build(config)
    check(estimate, build(tmp_path, config, load_encoder(tiny_colbert, device="cpu")), 0.12)
    assert estimate.encoded_per_second > 0
    # The sample's tokens are encoded once more.
    encoding_s = estimate.tokens / estimate.encoded_per_second
    assert (
        encoding_s
        < estimate.worker_hours * 3600
        < 2.5 * (encoding_s + estimate.tokens / estimate.quantised_per_second)
    )


def test_the_plan_of_an_encoded_corpus_is_about_right(tmp_path: Path) -> None:
    documents = make_clustered(3000, 32, seed=1)
    save_encoded(tmp_path / "c.npz", documents)
    config = PlanConfig(corpus=str(tmp_path), docs_per_partition=1000, bits=2)
    estimate = estimate_build(config)
    check(estimate, build(tmp_path, config, None), 0.12)
    assert estimate.encoded_per_second == 0


def test_a_corpus_without_a_usable_document_cannot_be_planned(tiny_colbert: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "text": ""}\n')
    with pytest.raises(InputError, match=r"no usable document"):
        estimate_build(PlanConfig(corpus=str(tmp_path), model=str(tiny_colbert)))
