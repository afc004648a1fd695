"""Mining and scoring with index, examples and results in an object store."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raycol.data import ExampleSource, read_examples
from raycol.errors import InputError, RaycolError
from raycol.mining import MineConfig, ScoreConfig
from raycol.storage import open_store
from tests.mining.conftest import make_index, passages_of
from tests.mining.in_process import mine_negatives, score_examples
from tests.mining.test_mine import rows_of
from tests.storage.server import Server, denied, listed, put, refused


@pytest.fixture
def data(beir: Path, s3: str) -> str:
    """The BEIR folder, uploaded to the store."""
    for path in beir.rglob("*"):
        if path.is_file():
            put(f"{s3}/beir/{path.relative_to(beir)}", path.read_bytes())
    return f"{s3}/beir"


def mine(index: object, data: object, out: object, **settings: Any) -> Any:
    return mine_negatives(MineConfig(index=index, data=data, out=out, **{"queries_per_part": 7, **settings}))


def rows_in(uri: str) -> list[dict[str, Any]]:
    store = open_store(uri)
    (name,) = [name for name in store.names("") if name.endswith(".parquet")]
    with store.open(name) as file:
        return pq.read_table(file).to_pylist()


def test_a_store_gives_the_same_results_as_folders(
    s3: str, data: str, beir: Path, tiny_colbert: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """The index stores no texts, so workers look them up in an input file of the job."""
    make_index(tmp_path / "index", passages_of(beir), tiny_colbert, with_text=False)
    make_index(f"{s3}/index", passages_of(beir), tiny_colbert, with_text=False)  # type: ignore[arg-type]
    mine(tmp_path / "index", beir, tmp_path / "mined")
    report = mine(f"{s3}/index", data, f"{s3}/mined")
    assert set(listed(f"{s3}/mined")) == {"part-00000.parquet", "mining-report.json"}
    assert rows_in(f"{s3}/mined") == rows_of(tmp_path / "mined")
    assert report.out == f"{s3}/mined"
    assert not [name for name in listed(s3) if "unfinished" in name]

    score_examples(ScoreConfig(teacher=str(tiny_cross_encoder), data=str(tmp_path / "mined"), out=tmp_path / "scored"))
    score_examples(ScoreConfig(teacher=str(tiny_cross_encoder), data=f"{s3}/mined", out=f"{s3}/scored"))
    assert rows_in(f"{s3}/scored") == rows_of(tmp_path / "scored")
    examples = list(read_examples(ExampleSource(path=f"{s3}/scored")))
    assert len(examples) == 60
    assert examples[0].scores is not None


@pytest.mark.long
def test_an_interrupted_job_resumes_and_is_never_a_partial_result(
    s3: str, s3_server: Server, data: str, index: Path, computed_parts: list[int]
) -> None:
    mine(index, data, f"{s3}/whole")
    del computed_parts[:]

    def third_part(request: Any, start: Any) -> Any:
        if request["REQUEST_METHOD"] == "PUT" and request["PATH_INFO"].endswith("part-00002.parquet"):
            return denied(request, start)
        return None

    with s3_server.failing(third_part), pytest.raises(RaycolError, match=r"part-00002\.parquet: cannot be written"):
        mine(index, data, f"{s3}/o")
    assert listed(f"{s3}/o") == {}
    with pytest.raises(InputError, match="no such file or folder"):
        list(read_examples(ExampleSource(path=f"{s3}/o")))
    with pytest.raises(InputError, match=r"differs in negatives \(7 there, 6 here\); .* remove s3://corpora/"):
        mine(index, data, f"{s3}/o", negatives=6)
    (part,) = [name for name in listed(s3) if name.endswith("part-00001.parquet") and "unfinished" in name]
    put(f"{s3}/{part}", b"PAR1 and no more")
    del computed_parts[:]

    def result(request: Any, start: Any) -> Any:
        if request["REQUEST_METHOD"] == "PUT" and request["PATH_INFO"].endswith("/o/part-00000.parquet"):
            return refused(start, "403 Forbidden", "AccessDenied")
        return None

    with s3_server.failing(result), pytest.raises(RaycolError, match=r"/o/part-00000\.parquet: cannot be written"):
        mine(index, data, f"{s3}/o")  # the last upload fails
    assert computed_parts == [1, 2, 3, 4]
    assert set(listed(f"{s3}/o")) == {"mining-report.json"}
    with pytest.raises(InputError, match="no corpus files"):
        list(read_examples(ExampleSource(path=f"{s3}/o")))
    assert mine(index, data, f"{s3}/o").reused_parts == 5
    assert rows_in(f"{s3}/o") == rows_in(f"{s3}/whole")
    with pytest.raises(InputError, match="o: already exists"):
        mine(index, data, f"{s3}/o")


@pytest.mark.parametrize("out", ["s3://corpora", "s3://corpora/"])
def test_a_bucket_without_a_folder_is_refused(s3: str, beir: Path, index: Path, out: str) -> None:
    with pytest.raises(InputError, match=f"{out}: expected a folder in the bucket"):
        mine(index, beir, out)
