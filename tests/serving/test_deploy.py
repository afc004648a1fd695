"""`raycol deploy` on an index."""

from pathlib import Path

import pytest

from raycol.errors import InputError, RaycolError
from raycol.index.format.manifest import ModelInfo, commit_manifest, read_manifest
from raycol.serving.deploy import DeployConfig, deploy
from raycol.serving.served_version import read_served_version
from raycol.storage import Store


def deploy_version(store: Store, version: int | None) -> tuple[int, int]:
    response = deploy(DeployConfig(target=store.uri, version=version))
    return response.before, response.version


def test_a_version_is_recorded_and_rolled_back(store: Store) -> None:
    assert deploy_version(store, 2) == (3, 2)
    record = read_served_version(store)
    assert record is not None
    assert (record.version, record.newest) == (2, False)
    assert deploy_version(store, None) == (2, 3)
    record = read_served_version(store)
    assert record is not None
    assert (record.version, record.newest) == (3, True)


@pytest.mark.sockets
def test_invalid_versions_are_rejected_and_not_recorded(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no version 9; the index has 1 to 3"):
        deploy_version(store, 9)
    file = tmp_path / "file"
    file.touch()
    for target, message in ((tmp_path, "not an index"), (file, "is a file; expected the folder of an index")):
        with pytest.raises(InputError, match=message):
            deploy(DeployConfig(target=str(target)))
    with pytest.raises(RaycolError, match="is the endpoint running"):
        deploy(DeployConfig(target="http://127.0.0.1:9"))
    assert read_served_version(store) is None
    deploy_version(store, 3)
    other = ModelInfo(name="other", fingerprint="f" * 16)
    commit_manifest(store, read_manifest(store).model_copy(update={"version": 4, "model": other}))
    with pytest.raises(InputError, match="version 4 has another model"):
        deploy_version(store, 4)
    record = read_served_version(store)
    assert record is not None
    assert record.version == 3
