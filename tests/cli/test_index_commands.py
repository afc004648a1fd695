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
    assert run("index", "info", index.root) == 0
    out = capsys.readouterr().out
    assert "documents    9" in out
    assert "tokens       36" in out


def test_verify_names_the_damaged_file(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "verify", index.root) == 0
    codes = next(index.root.glob("partitions/*/codes.npy"))
    damaged = bytearray(codes.read_bytes())
    damaged[-1] ^= 1
    codes.write_bytes(damaged)
    capsys.readouterr()
    assert run("index", "verify", index.root) == 1
    err = capsys.readouterr().err
    assert f"{codes}: the checksum differs" in err
    assert "error: " in err


def test_an_index_of_no_known_model_asks_for_one(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", index.root, "a question") == 2
    assert "pass --model" in capsys.readouterr().err
