import bz2
import gzip
import lzma
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


def test_info_prints_the_contents(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "info", index.uri) == 0
    out = capsys.readouterr().out
    assert "documents    9" in out
    assert "tokens       36" in out


def test_verify_names_the_damaged_file(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "verify", index.uri) == 0
    path = next(Path(index.uri).glob("partitions/*/partition.bin"))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    capsys.readouterr()
    assert run("index", "verify", index.uri) == 1
    err = capsys.readouterr().err
    assert f"{path}: the checksum differs" in err
    assert "error: " in err


def test_an_index_without_a_model_asks_for_one(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", index.uri, "a question") == 2
    assert "pass --model" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ids.txt", "ids.txt.gz", "ids.txt.bz2", "ids.txt.xz"])
def test_ids_in_a_file_are_read_verbatim(tmp_path: Path, name: str) -> None:
    """With surrounding spaces, a byte order mark and Windows line ends."""
    ids = ["é", " a ", "b c", "d\t", "7", "kept", "\u00a0x\u2003"]
    index = Index.create(tmp_path / "i", (Document(id_, np.ones((4, 16), np.float32)) for id_ in ids))
    content = b"\xef\xbb\xbf" + "\r\n".join(id_ for id_ in ids if id_ != "kept").encode() + b"\r\n\r\n"
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(compress(content))
    assert run("index", "delete", index.uri, "--file", tmp_path / name, "--refuse-unknown") == 0
    assert [hit.id for hit in Index.open(index.uri).search(np.ones((1, 4, 16), np.float32), k=9)[0]] == ["kept"]


def test_a_file_of_ids_that_is_not_utf_8_is_named(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids.txt").write_bytes(b"d1\ncaf\xe9\n")
    assert run("index", "delete", index.uri, "--file", tmp_path / "ids.txt") == 2
    assert f"error: {tmp_path}/ids.txt, line 2: the id is not UTF-8" in capsys.readouterr().err
    assert len(Index.open(index.uri)) == 9


def test_documents_are_deleted_compacted_and_vacuumed(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("d1\n\nd2\n")
    assert run("index", "delete", index.uri, "d0", "unknown", "--file", ids) == 0
    assert "version 2, 3 documents deleted, of 4 ids; the others are not in the index" in capsys.readouterr().out
    assert run("index", "compact", index.uri) == 0
    assert "version 3, 1 -> 1 partitions, 3 deleted documents dropped" in capsys.readouterr().out
    assert run("index", "vacuum", index.uri, "--keep", "1") == 0
    assert "2 versions and 2 folders and files removed" in capsys.readouterr().out
    assert len(Index.open(index.uri)) == 6
    assert run("index", "verify", index.uri) == 0
    assert run("index", "info", index.uri) == 0
    assert "documents    6 (0 more are deleted)" in capsys.readouterr().out
