"""Upload models to an object store and open them from it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError, RaycolError
from raycol.models.encoder import encoder_fingerprint, load_encoder
from raycol.models.remote import fetch_model, model_exists, publish_model
from raycol.training import TrainConfig, train
from tests.storage.server import Server, put


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_in_a_store_equals_its_folder(s3: str, s3_server: Server, tiny_colbert: Path) -> None:
    assert not model_exists(f"{s3}/model")
    publish_model(tiny_colbert, f"{s3}/model")
    assert model_exists(f"{s3}/model")
    assert contents(fetch_model(f"{s3}/model")) == contents(tiny_colbert)
    local, remote = (load_encoder(path, device="cpu") for path in (tiny_colbert, f"{s3}/model"))
    assert encoder_fingerprint(local) == encoder_fingerprint(remote)
    assert np.array_equal(*(encoder.encode_query("rain", convert_to_numpy=True) for encoder in (local, remote)))
    # The second time, nothing is downloaded.
    del s3_server.requests[:]
    fetch_model(f"{s3}/model/")
    assert not [path for method, path in s3_server.requests if method == "GET" and "safetensors" in path]


def test_a_changed_model_is_downloaded_again(s3: str, tiny_colbert: Path) -> None:
    publish_model(tiny_colbert, f"{s3}/model")
    before = fetch_model(f"{s3}/model")
    put(f"{s3}/model/README.md", b"another")
    after = fetch_model(f"{s3}/model")
    assert (after / "README.md").read_bytes() == b"another"
    assert contents(before) == contents(tiny_colbert)


def test_the_files_that_mark_a_model_are_uploaded_last(s3: str, s3_server: Server, tiny_colbert: Path) -> None:
    publish_model(tiny_colbert, f"{s3}/model")
    written = [path.rpartition("/")[2].partition("?")[0] for method, path in s3_server.requests if method == "PUT"]
    assert written[-2:] == ["modules.json", "config.json"]
    assert len(written) == len(contents(tiny_colbert))


@pytest.mark.parametrize("name", ["README.md", "below/config.json"])
def test_a_prefix_without_a_model_is_refused(s3: str, name: str) -> None:
    put(f"{s3}/model/{name}", b"{}")
    with pytest.raises(InputError, match=r"/model': no config.json or modules.json"):
        load_encoder(f"{s3}/model", device="cpu")


def test_a_missing_bucket_is_named(s3: str) -> None:
    with pytest.raises(InputError, match="s3://nowhere/model"):
        load_encoder("s3://nowhere/model", device="cpu")


def test_a_failed_download_leaves_nothing(s3: str, tiny_colbert: Path, tmp_path: Path) -> None:
    publish_model(tiny_colbert, f"{s3}/model")
    cache = tmp_path / "cache"
    cache.mkdir(exist_ok=True)
    (cache / "models").write_text("in the way")
    with pytest.raises(RaycolError, match="cannot be written"):
        fetch_model(f"{s3}/model")
    (cache / "models").unlink()
    assert contents(fetch_model(f"{s3}/model")) == contents(tiny_colbert)
    assert not list(cache.rglob(".unfinished*"))


def test_training_does_not_overwrite_a_model(s3: str, tiny_colbert: Path, tmp_path: Path) -> None:
    publish_model(tiny_colbert, f"{s3}/model")
    with pytest.raises(InputError, match=r"/model: already exists; choose another folder"):
        train(TrainConfig(model=str(tiny_colbert), data=str(tmp_path), out=f"{s3}/model"))
    shutil.copytree(tiny_colbert, tmp_path / "model")
    with pytest.raises(InputError, match=r"/model: already exists; choose another folder"):
        train(TrainConfig(model=str(tiny_colbert), data=str(tmp_path), out=tmp_path / "model"))
