from pathlib import Path

import numpy as np
import pytest

from raycol.index import Document, Index
from tests.cli.test_bad_input import run


@pytest.fixture
def index(tmp_path: Path) -> Index:
    rng = np.random.default_rng(0)
    documents = (Document(f"d{n}", rng.standard_normal((4, 16)).astype(np.float32)) for n in range(9))
    return Index.create(tmp_path / "i", documents)


def test_info_prints_what_there_is(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "info", index.uri) == 0
    out = capsys.readouterr().out
    assert "documents    9" in out
    assert "tokens       36" in out


def test_verify_names_the_damaged_file(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "verify", index.uri) == 0
    codes = next(Path(index.uri).glob("partitions/*/codes.npy"))
    damaged = bytearray(codes.read_bytes())
    damaged[-1] ^= 1
    codes.write_bytes(damaged)
    capsys.readouterr()
    assert run("index", "verify", index.uri) == 1
    err = capsys.readouterr().err
    assert f"{codes}: the checksum differs" in err
    assert "error: " in err


def test_an_index_of_no_known_model_asks_for_one(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", index.uri, "a question") == 2
    assert "pass --model" in capsys.readouterr().err


def test_documents_are_deleted_dropped_and_forgotten(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("d1\n\nd2\n")
    assert run("index", "delete", index.uri, "d0", "unknown", "--file", ids) == 0
    assert "version 2, 3 documents deleted" in capsys.readouterr().out
    assert run("index", "compact", index.uri) == 0
    assert "version 3, 1 -> 1 partitions, 3 deleted documents dropped" in capsys.readouterr().out
    assert run("index", "vacuum", index.uri, "--keep", "1") == 0
    assert "2 versions given up, 2 folders and files removed" in capsys.readouterr().out
    assert len(Index.open(index.uri)) == 6
    assert run("index", "verify", index.uri) == 0
    assert run("index", "info", index.uri) == 0
    assert "documents    6 (0 more are deleted)" in capsys.readouterr().out
