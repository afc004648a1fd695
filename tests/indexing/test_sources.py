"""Corpora of an index: every format gives the same partitions, and unusable documents are reported."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import Fields, corpus_files
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.training import train_codebook
from raycol.index.format.manifest import PartitionInfo
from raycol.indexing import AppendConfig, BuildReport, IndexConfig
from raycol.indexing.encode import encode_texts
from raycol.indexing.part import PartSettings, build_partition
from raycol.indexing.plan import BuildPlan, plan_build
from raycol.storage import open_store
from tests.conftest import TOPICS, make_clustered, make_passages, save_encoded
from tests.index.forging import split
from tests.indexing.in_process import append_corpus, build_index
from tests.indexing.test_split import assert_covers

RECORDS = [{**record, "year": 2000 + number} for number, record in enumerate(make_passages(45))]
FIELDS = Fields(metadata={"year": "int64"})
WORDS = " ".join(TOPICS.values()).split()


def save(path: Path, records: list[dict]) -> None:
    """Write records in the format of the path's suffix."""
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(lines))
        case ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as file:
                file.write(lines)
        case ".csv" | ".tsv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, records[0], delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(records)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path, row_group_size=11)
        case "":
            datasets.Dataset.from_list(records).save_to_disk(path)
        case _:
            path.write_bytes(lines)


def save_several(folder: Path) -> None:
    folder.mkdir()
    for name, start, stop in (("a.jsonl", 0, 17), ("b.csv", 17, 20), ("c.parquet", 20, 45)):
        save(folder / name, RECORDS[start:stop])


def plan_of(path: Path, fields: Fields, on_error: str = "fail") -> BuildPlan:
    return plan_build(corpus_files(str(path)), fields, 8, on_error)


def build_all(
    plan: BuildPlan, out: Path, codebook: Codebook, settings: PartSettings, encoder: object = None
) -> list[PartitionInfo]:
    store = open_store(str(out))
    return [build_partition(part, settings, codebook, store, encoder).info for part in plan.parts]


def small_codebook(dim: int = 16) -> Codebook:
    tokens = np.concatenate(make_clustered(100, dim, seed=9)).astype(np.float16)
    return train_codebook(tokens, bits=4, n_centroids=16, seed=0)


@pytest.mark.slow
def test_every_format_gives_the_same_partitions(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.models.encoder import load_encoder

    encoder, codebook = load_encoder(tiny_colbert, device="cpu"), small_codebook()
    columns = {"title": "string", "text": "string", "year": "int64"}
    settings = PartSettings(FIELDS, columns, 512, 1.0, "fail", 0)
    names = ["c.jsonl", "c.jsonl.gz", "c.jsonl.zst", "c.csv", "c.tsv", "c.parquet", "dataset"]
    for name in names:
        save(tmp_path / name, RECORDS)
    save_several(tmp_path / "several")
    plans = [plan_of(tmp_path / name, FIELDS) for name in [*names, "several"]]
    assert {plan.digest for plan in plans} == {plans[0].digest}
    built = [
        build_all(plan, tmp_path / f"out-{number}", codebook, settings, encoder) for number, plan in enumerate(plans)
    ]
    assert len(built[0]) == 6
    assert all(infos == built[0] for infos in built)


def test_encoded_npz_and_parquet_give_the_same_partitions(tmp_path: Path) -> None:
    documents = make_clustered(45, 16, seed=1)
    npz, parquet = save_both(tmp_path, documents)
    fields, codebook = Fields(encoded=True), small_codebook()
    settings = PartSettings(fields, {"title": "string", "text": "string"}, 512, 1.0, "fail", 0)
    first, second = (
        build_all(plan_of(path, fields), tmp_path / path.suffix[1:], codebook, settings) for path in (npz, parquet)
    )
    assert first == second
    assert sum(info.tokens for info in first) == sum(map(len, documents))


def save_both(folder: Path, documents: list) -> tuple[Path, Path]:
    npz, parquet = save_encoded(folder / "encoded.npz", documents), folder / "encoded.parquet"
    ids = [f"d{number}" for number in range(len(documents))]
    pq.write_table(table_of(ids, [tokens.tolist() for tokens in documents]), parquet, row_group_size=7)
    return npz, parquet


def table_of(ids: list[str], embeddings: list) -> pa.Table:
    return pa.table({"id": ids, "embeddings": pa.array(embeddings, pa.list_(pa.list_(pa.float32())))})


def test_an_encoded_corpus_is_searched_like_an_index_of_its_arrays(tmp_path: Path) -> None:
    documents = make_clustered(45, 16, seed=1)
    paths = save_both(tmp_path, documents)
    for path in paths:
        build_index(IndexConfig(corpus=str(path), out=str(tmp_path / path.suffix[1:]), docs_per_partition=20, bits=8))
    pairs = (Document(f"d{number}", tokens, {}) for number, tokens in enumerate(documents))
    created = Index.create(tmp_path / "created", pairs, bits=8)
    built = [Index.open(tmp_path / path.suffix[1:]) for path in paths]
    queries = [tokens[:4] for tokens in documents[:9]]
    expected = [[hit.id for hit in hits] for hits in created.search(queries, k=3)]
    for index in built:
        assert [[hit.id for hit in hits] for hits in index.search(queries, k=3)] == expected
        assert index.manifest.partitions == built[0].manifest.partitions


# Unusable embeddings, and a part of the error message.
BAD_EMBEDDINGS = [
    ([[float("nan")] * 16], "NaN"),
    ([[1.0] * 8], "8 dimensions"),
    (None, "no embeddings"),
    ([], "shape"),
    ([[1.0] * 16, [1.0] * 8], "not an array"),
    ([[1e30] * 16], "norm"),
]


def test_unusable_embeddings_are_reported_or_skipped(tmp_path: Path) -> None:
    tokens = [document.tolist() for document in make_clustered(12, 16, seed=2)]
    good = [f"g{number}" for number in range(12)]
    bad = [embeddings for embeddings, _ in BAD_EMBEDDINGS]
    path, out = tmp_path / "c.parquet", tmp_path / "i"
    pq.write_table(table_of([*good, *(f"b{n}" for n in range(len(bad)))], [*tokens, *bad]), path)
    config = IndexConfig(corpus=str(path), out=str(out), docs_per_partition=3, num_workers=1)
    with pytest.raises(InputError, match=r"c\.parquet, row 1[3-8]: document 'b\d'.* `on_error='skip'`"):
        build_index(config)
    report = build_index(config.model_copy(update={"on_error": "skip"}))
    assert (report.documents, report.passages, report.parts) == (12, 12, 6)
    assert [problem.where for problem in report.skipped] == [f"{path}, row {13 + n}" for n in range(len(bad))]
    for problem, (_, what) in zip(report.skipped, BAD_EMBEDDINGS, strict=True):
        assert what in problem.what
    assert BuildReport.model_validate_json((out / "build-report.json").read_bytes()) == report

    # A document whose replacement is unusable stays as it was.
    again = tmp_path / "again.parquet"
    pq.write_table(table_of(["g0", "g1", "new"], [bad[0], tokens[5], tokens[6]]), again)
    done = append_corpus(AppendConfig(index=str(out), corpus=str(again), upsert=True, on_error="skip"))
    assert (done.documents, done.replaced, len(done.skipped)) == (2, 1, 1)
    index = Index.open(out)
    assert len(index) == 13
    assert np.array_equal(index.reconstruct("g0"), Index.open(out, version=1).reconstruct("g0"))
    assert index.verify() == []


def test_parts_with_skipped_documents_are_refused_without_skipping(tmp_path: Path) -> None:
    """An interrupted build skips a document; the command that continues it does not allow that."""
    path, out = tmp_path / "c.parquet", tmp_path / "i"
    tokens = [document.tolist() for document in make_clustered(20, 16, seed=2)]
    ids = [f"g{number}" for number in range(20)]
    pq.write_table(table_of(ids, [tokens[0], [[float("nan")] * 16], *tokens[2:]]), path)
    config = IndexConfig(corpus=str(path), out=str(out), docs_per_partition=1, num_workers=1, on_error="skip")

    def interrupt(done: int, total: int | None, text: str) -> None:
        if text == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(config, interrupt)
    with pytest.raises(InputError, match=r"row 2: .*NaN.*`on_error='skip'`"):
        build_index(config.model_copy(update={"on_error": "fail"}))
    assert build_index(config).reused_parts == 20


def test_a_sample_without_usable_documents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    unusable = [[[float("nan")] * 16]] * 99
    pq.write_table(table_of([f"d{n}" for n in range(100)], [[[1.0] * 16], *unusable]), path)
    config = IndexConfig(corpus=str(path), out=str(tmp_path / "i"), sample_documents=1, seed=1, on_error="skip")
    with pytest.raises(InputError, match=r"none of the 1 sampled documents has usable embed.*`sample_documents=`"):
        build_index(config)


@pytest.mark.slow
def test_split_documents_have_parents_and_are_replaced_whole(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.models.encoder import load_encoder

    texts = [" ".join(np.random.default_rng(number).choice(WORDS, 5 + 20 * number)) for number in range(4)]
    records = [
        {"id": f"d{n}", "text": text, "lang": "en" if n % 2 else "de", "year": 2000 + n, "day": f"2024-01-0{n + 1}"}
        for n, text in enumerate(texts)
    ]
    path, out = tmp_path / "c.csv", str(tmp_path / "i")
    save(path, records)
    metadata = ("lang", "year:int64", "day:date")
    settings = {"docs_per_partition": 2, "num_workers": 1, "split_tokens": 12, "overlap": 4, "metadata": metadata}
    report = build_index(IndexConfig(corpus=str(path), model=str(tiny_colbert), out=out, **settings))
    assert (report.documents, report.truncated) == (4, 0)
    index = Index.open(out)
    assert report.passages == len(index) > 4
    query = load_encoder(tiny_colbert, device="cpu").encode_query(texts[3][:60], convert_to_numpy=True)
    hits = index.search([query], k=50, filter="lang = 'en' AND year >= 2003 AND day > DATE '2024-01-02'")[0]
    rows = index.metadata([hit.id for hit in hits])
    assert {row["parent"] for row in rows} == {"d3"}
    assert {hit.id for hit in hits} == {f"d3#{number}" for number in range(len(hits))}
    pieces = dict(zip([hit.id for hit in hits], [str(row["text"]) for row in rows], strict=True))
    assert_covers([pieces[f"d3#{number}"] for number in range(len(hits))], texts[3])

    save(path, [records[3] | {"text": "rain wind storm"}])
    done = append_corpus(AppendConfig(index=out, corpus=str(path), upsert=True))
    assert (done.documents, done.passages, done.replaced) == (1, 1, len(hits))
    grown = Index.open(out)
    assert len(grown) == len(index) - len(hits) + 1
    hits = grown.search([query], k=50, filter="parent = 'd3'")[0]
    assert [row["text"] for row in grown.metadata([hit.id for hit in hits])] == ["rain wind storm"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """More texts than one call of the tokenizer takes, of 0 to 60 words, unordered."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 60))) for _ in range(300)]


@pytest.mark.slow
def test_embeddings_depend_only_on_texts_and_batch_tokens(tiny_colbert: Path, texts: list[str]) -> None:
    from raycol.models.encoder import load_encoder

    once, again = (list(encode_texts(load_encoder(tiny_colbert, device="cpu"), texts, 333)) for _ in range(2))
    assert [batch.positions for batch in once] == [batch.positions for batch in again]
    for left, right in zip(once, again, strict=True):
        assert all(map(np.array_equal, left.embeddings, right.embeddings))


@pytest.mark.parametrize("pool_factor", [1.0, 2.0])
def test_a_partition_is_in_corpus_order(tiny_colbert: Path, tmp_path: Path, pool_factor: float) -> None:
    """Although documents are encoded by length."""
    from raycol.models.encoder import load_encoder

    save(tmp_path / "c.jsonl", RECORDS[:8])
    encoder = load_encoder(tiny_colbert, device="cpu")
    plan = plan_of(tmp_path / "c.jsonl", Fields())
    settings = PartSettings(plan.fields, {}, 64, pool_factor, "fail", 0)
    encoded = encoder.encode_document([f"{r['title']} {r['text']}" for r in RECORDS[:8]], convert_to_numpy=True)
    codebook = train_codebook(np.concatenate(encoded).astype(np.float16), bits=8, n_centroids=8, seed=0)
    store = open_store(str(tmp_path / "i"))
    info = build_partition(plan.parts[0], settings, codebook, store, encoder).info
    assert info
    sections = split(tmp_path / "i", f"partitions/{info.name}/partition.bin")
    offsets = np.frombuffer(sections["offsets"], np.int64)
    kept = [1 + (len(tokens) - 1) // 2 if pool_factor == 2 else len(tokens) for tokens in encoded]
    assert np.diff(offsets).tolist() == kept
    ids = sections["id_bytes"].decode()
    assert ids == "".join(record["_id"] for record in RECORDS[:8])


def test_an_existing_document_is_refused_with_its_line(tmp_path: Path) -> None:
    """Ids are looked up thousands at a time; the line comes from a second pass."""
    ids = np.array([f"d{number}" for number in range(9000)])
    index, corpus = tmp_path / "i", tmp_path / "c.npz"

    def write(ids: np.ndarray) -> None:
        # `parent` is an ordinary column here, because documents were not split.
        np.savez(corpus, ids=ids, embeddings=np.ones((len(ids), 1, 16), np.float32), parent=ids)

    existing = (Document(str(id_), np.ones((1, 16), np.float32), {"parent": "x"}) for id_ in ids[[8999, 7, 3]])
    Index.create(index, existing).delete(["d3"])
    config = AppendConfig(index=str(index), corpus=str(corpus), num_workers=1)
    write(ids)
    with pytest.raises(InputError, match=r"c\.npz, row 8: document 'd7' is already in .*`upsert=True` .*skip"):
        append_corpus(config)
    write(ids[[7, 8999]])
    with pytest.raises(InputError, match=r"c\.npz: all its documents are already in the index .*; `upsert=True`"):
        append_corpus(config.model_copy(update={"on_error": "skip"}))
    assert len(Index.open(index)) == 2
