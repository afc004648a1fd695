import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.index import Document, Index

TOKENS = np.eye(3, 16, dtype=np.float32)


def documents(n: int = 30, seed: int = 0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        yield Document(f"d{i}", rng.standard_normal((3, 16)).astype(np.float32), {"n": i, "t": f"t{i}"})


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_open_returns_the_created_index(tmp_path: Path) -> None:
    created = Index.create(tmp_path / "i", documents(), partition_tokens=24)
    opened = Index.open(tmp_path / "i")
    queries = [document.embeddings for document in documents(5)]
    assert opened.search(queries) == created.search(queries)
    assert [hits[0].id for hits in opened.search(queries)] == ["d0", "d1", "d2", "d3", "d4"]
    assert opened.metadata(["d7", "d2"]) == [{"n": 7, "t": "t7"}, {"n": 2, "t": "t2"}]
    stats = opened.stats()
    assert (stats.documents, stats.tokens, stats.partitions, stats.version) == (30, 90, 4, 1)
    assert opened.verify() == []


def test_the_same_documents_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    for name, source in (("a", documents()), ("b", list(documents()))):
        Index.create(tmp_path / name, source, partition_tokens=24, seed=3)
    Index.create(tmp_path / "c", documents(), partition_tokens=24, seed=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_an_index_of_one_document_with_one_token(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", [Document("only", TOKENS[:1])])
    assert [hit.id for hit in index.search([TOKENS[:1]], k=5)[0]] == ["only"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Document("", TOKENS), "document id ''"),
        (Document(5, TOKENS), "document id 5"),  # type: ignore[arg-type]
        (Document("x" * 600, TOKENS), "600 bytes"),
        (Document("\ud800", TOKENS), "not valid Unicode"),
        (Document("bad", TOKENS * np.nan), "document 'bad': embeddings hold NaN"),
        (Document("bad", TOKENS[:, :8]), "document 'bad': embeddings of 8 dimensions; the index has 16"),
        (Document("bad", TOKENS[:0]), "document 'bad': embeddings of shape"),
        (Document("bad", TOKENS.astype(int)), "document 'bad': embeddings of type int64"),
        (Document("d1", TOKENS), "'d1' occurs twice"),
        (Document("bad", TOKENS, {"n": "text"}), "'bad': metadata 'n' is a string; expected int64, as in earlier"),
        (Document("bad", TOKENS, {"n": [1]}), "metadata 'n' is a list"),
        (Document("bad", TOKENS, {"n": 2**70}), "expected a 64-bit integer"),
        (Document("bad", TOKENS, {"t": "\ud800"}), "'bad': metadata 't' is not valid Unicode"),
        (Document("bad", TOKENS, {"id": "x"}), "'bad': metadata 'id' is not a column name"),
        (Document("bad", TOKENS, {5: "x"}), "'bad': metadata 5 is not a column name"),  # type: ignore[dict-item]
        (Document("bad", TOKENS[:, :0]), "document 'bad': embeddings of shape"),
    ],
)
def test_an_invalid_document_is_named_and_leaves_no_index(tmp_path: Path, bad: Document, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.create(tmp_path / "i", [*documents(3), bad])
    assert not (tmp_path / "i").exists()


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for setting in (
        {"partition_tokens": 0},
        {"partition_tokens": -1},
        {"bits": 3},
        {"n_centroids": 999},
    ):
        with pytest.raises(InputError, match=next(iter(setting))):
            Index.create(tmp_path / "i", documents(3), **setting)
    Index.create(tmp_path / "i", documents(3))
    with pytest.raises(InputError, match="no partition 'nope'"):
        Index.open(tmp_path / "i", partitions=["nope"])
    assert Index.open(tmp_path / "i", partitions=[]).search([TOKENS]) == [[]]


def test_creating_without_documents_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        Index.create(tmp_path / "i", [])
    assert not (tmp_path / "i").exists()


def test_an_index_is_not_overwritten(tmp_path: Path) -> None:
    Index.create(tmp_path / "i", documents(3))
    before = contents(tmp_path / "i")
    with pytest.raises(InputError, match="already holds an index"):
        Index.create(tmp_path / "i", documents(4))
    assert contents(tmp_path / "i") == before


def test_opening_what_is_no_index_explains_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Index.open(tmp_path / "missing")
    with pytest.raises(InputError, match="not an index"):
        Index.open(tmp_path)
    (tmp_path / "partitions").mkdir()
    with pytest.raises(InputError, match="an unfinished build"):
        Index.open(tmp_path)
    Index.create(tmp_path / "i", documents(3))
    with pytest.raises(InputError, match="no version 9; expected one of 1"):
        Index.open(tmp_path / "i", version=9)
    with pytest.raises(InputError, match="document 'nobody' is not in the index"):
        Index.open(tmp_path / "i").reconstruct("nobody")


def test_another_format_version_is_an_input_error(tmp_path: Path) -> None:
    Index.create(tmp_path / "i", documents(3))
    path = tmp_path / "i" / "manifests" / "00000001.json"
    for other, advice in ((99, "Use a newer raycol"), (2, "Rewrite it with"), (1, "Build the index again")):
        path.write_text(json.dumps({"format": "raycol-index", "format_version": other, "new_in_99": [1]}))
        with pytest.raises(InputError, match=f"format version {other}; expected version 3. {advice}"):
            Index.open(tmp_path / "i")


@pytest.mark.slow
def test_searching_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    Index.create(tmp_path / "i", documents(3))
    code = (
        "import sys, numpy as np; from raycol import Index; "
        f"hits = Index.open({str(tmp_path / 'i')!r}).search([np.eye(2, 16, dtype='f4')]); assert len(hits[0]) == 3; "
        "print([name for name in ('ray', 'torch', 'faiss', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_unreadable_path_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Index.open(tmp_path / ("x" * 300))
