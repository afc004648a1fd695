"""Building one part, without Ray."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.data import Fields, Passage, corpus_files
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.index.format.manifest import SplitInfo
from raycol.index.format.snapshot import Snapshot
from raycol.indexing import encode
from raycol.indexing.encode import document_length, encode_texts
from raycol.indexing.part import BuiltPart, PartSettings, build_partition, encode_sample
from raycol.indexing.plan import plan_build
from raycol.indexing.split import Splitter
from tests.conftest import TOPICS, make_clustered, make_passages, write_jsonl
from tests.index.forging import split as split_sections


@pytest.fixture(scope="module")
def encoder(tiny_colbert: Path) -> Any:
    from raycol.models.encoder import load_encoder

    return load_encoder(tiny_colbert, device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    words = " ".join(TOPICS.values()).split()
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, length)) for length in rng.integers(1, 60, 140)]


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [1, 100, 5000])
def test_encode_texts_equals_encode_document(encoder: Any, texts: list[str], batch_tokens: int) -> None:
    expected = encoder.encode_document(texts, convert_to_numpy=True)
    encoded: dict[int, np.ndarray] = {}
    truncated = 0
    for batch in encode_texts(encoder, texts, batch_tokens):
        assert len(batch.positions) == 1 or batch_tokens >= len(batch.positions) * max(map(len, batch.embeddings))
        encoded |= dict(zip(batch.positions, batch.embeddings, strict=True))
        truncated += batch.truncated
    assert sorted(encoded) == list(range(len(texts)))
    for position, tokens in enumerate(expected):
        np.testing.assert_allclose(encoded[position], tokens, atol=1e-5)
    lengths = [len(encoder.tokenizer("[D] " + text, truncation=False)["input_ids"]) for text in texts]
    assert truncated == sum(length > document_length(encoder) for length in lengths) > 0


def embedded(path: Path, tokens: list[Any], **columns: list[Any]) -> Path:
    ids = [str(number) for number in range(len(tokens))]
    rows = pa.array([None if each is None else each.tolist() for each in tokens], pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({"id": ids, "embeddings": rows, **columns}), path, row_group_size=7)
    return path


def build(index: Index, path: Path, encoder: Any = None, **changes: Any) -> BuiltPart:
    """Build a corpus as one partition with an index's codebook."""
    fields = changes.pop("fields", Fields(encoded=encoder is None))
    plan = plan_build(corpus_files(str(path)), fields, 1000)
    values = {"columns": {}, "batch_tokens": 100, "pool_factor": 1, "on_error": "fail", "base": 1, **changes}
    snapshot = Snapshot.open(index._snapshot.store, index.manifest)
    return build_partition(plan.parts[0], PartSettings(fields, **values), snapshot.codebook, snapshot.store, encoder)


def test_encoded_documents_are_quantised_as_by_index_create(tmp_path: Path) -> None:
    tokens = make_clustered(60, 16, seed=0)
    index = Index.create(tmp_path / "i", (Document(str(n), each) for n, each in enumerate(tokens)))
    built = build(index, embedded(tmp_path / "c.parquet", tokens))
    assert built.info
    expected = index.manifest.partitions[0].files
    assert {name: built.info.files[name] for name in expected} == dict(expected)
    assert (built.documents, built.tokens, built.truncated) == (60, sum(map(len, tokens)), 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((2, 16), np.nan), "NaN"),
        (np.ones((2, 8)), "8 dimensions; the index has 16"),
        (None, "has no embeddings"),
        (np.ones((0, 16)), "embeddings"),
    ],
)
def test_unusable_embeddings_are_reported_or_skipped(tmp_path: Path, bad: Any, message: str) -> None:
    tokens: list[Any] = list(make_clustered(20, 16, seed=0))
    index = Index.create(tmp_path / "i", (Document(str(n), each) for n, each in enumerate(tokens)))
    tokens[3] = bad
    path = embedded(tmp_path / "c.parquet", tokens)
    with pytest.raises(InputError, match=rf"c\.parquet, row 4: .*{message}.*`on_error='skip'`"):
        build(index, path)
    built = build(index, path, on_error="skip")
    assert [str(problem).split(", ")[1].partition(":")[0] for problem in built.problems] == ["row 4"]
    assert built.info
    assert built.info.documents == built.documents == 19
    empty = build(index, embedded(tmp_path / "n.parquet", [bad]), on_error="skip")
    assert empty.info is None
    assert len(empty.problems) == 1


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the encoder overflow on every text that contains "thunder"."""

    def overflow(encoder: Any, features: dict[str, Any], batch_tokens: int) -> Iterator[Any]:
        thunder = encoder.tokenizer("thunder", add_special_tokens=False)["input_ids"]
        for rows, embeddings in original(encoder, features, batch_tokens):
            for row, tokens_TD in zip(rows, embeddings, strict=True):
                if set(thunder) <= set(features["input_ids"][row].tolist()):
                    tokens_TD[-1] = np.inf
            yield rows, embeddings

    original = encode._encode
    monkeypatch.setattr(encode, "_encode", overflow)


RAIN, THUNDER = "rain wind storm cloud", "snow thunder fog rain"
TEXTS = [RAIN, THUNDER, f"{RAIN} {THUNDER} {RAIN}", RAIN]


@pytest.mark.usefixtures("overflowing")
@pytest.mark.parametrize(
    ("split", "stored", "skipped"),
    [
        (None, ["d0", "d3"], ["d1", "d2"]),
        (SplitInfo(tokens=4), ["d0#0", "d2#0", "d2#2", "d3#0"], ["d1#0", "d2#1"]),
    ],
)
def test_texts_that_overflow_are_reported_or_skipped(
    tmp_path: Path, encoder: Any, split: SplitInfo | None, stored: list[str], skipped: list[str]
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
    index = Index.create(tmp_path / "i", [Document("x", make_clustered(1, 16, seed=0)[0])])
    with pytest.raises(InputError, match=r"c\.jsonl, line [23]: document 'd[12].*NaN or infinite.*`on_error='skip'`"):
        build(index, path, encoder, split=split)
    built = build(index, path, encoder, split=split, on_error="skip")
    assert built.info
    sections = split_sections(tmp_path / "i", f"partitions/{built.info.name}/partition.bin")
    assert sections["id_bytes"] == "".join(stored).encode()
    assert sorted(problem.what.split("'")[1] for problem in built.problems) == skipped
    assert {problem.where for problem in built.problems} == {f"{path}, line 2", f"{path}, line 3"}
    assert built.left_out == (["d1"] if split else skipped)
    assert built.documents == 4 - len(built.left_out)


@pytest.mark.usefixtures("overflowing")
@pytest.mark.parametrize("pool_factor", [1, 2])
def test_texts_that_overflow_are_not_sampled(tmp_path: Path, encoder: Any, pool_factor: float) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
    plan = plan_build(corpus_files(str(path)), Fields(), 1000)
    settings = PartSettings(Fields(), {}, 100, pool_factor, "fail", 0)
    whole = encode_sample(plan.parts[0], range(4), settings, encoder, 16)
    good = encode_sample(plan.parts[0], [0, 3], settings, encoder, 16)
    assert np.isfinite(whole).all()
    assert len(whole) == len(good) > 0
    assert len(encode_sample(plan.parts[0], [1, 2], settings, encoder, 16)) == 0


@pytest.mark.parametrize("size", [8, 32])
def test_passages_store_their_parent(tmp_path: Path, encoder: Any, texts: list[str], size: int) -> None:
    records = [
        {"_id": record["_id"], "title": "rain wind", "text": texts[n]} for n, record in enumerate(make_passages(20))
    ]
    path = write_jsonl(tmp_path / "c.jsonl", records)
    index = Index.create(tmp_path / "i", [Document("x", make_clustered(1, 16, seed=0)[0])])
    columns = {"text": "string", "parent": "string"}
    split = SplitInfo(tokens=size, overlap=2)
    built = build(index, path, encoder, fields=Fields(), columns=columns, split=split)
    assert built.info
    assert built.documents == 20 < built.info.documents
    assert built.truncated == 0
    sections = split_sections(tmp_path / "i", f"partitions/{built.info.name}/partition.bin")
    rows = pq.read_table(io.BytesIO(sections["metadata"])).to_pylist()
    for record in records:
        pieces = [row["text"] for row in rows if row["parent"] == record["_id"]]
        document = Passage(record["_id"], "rain wind", record["text"])
        assert pieces == [piece.text for piece in Splitter(encoder.tokenizer, split, 32, "[D] ")(document)]
