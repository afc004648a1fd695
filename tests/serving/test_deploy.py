"""`raycol deploy`: which version the endpoints of an index are told to serve."""

from pathlib import Path

import pytest

from raycol.errors import InputError, RaycolError
from raycol.index.format.manifest import ModelInfo, commit_manifest, read_manifest
from raycol.serving.deploy import DeployConfig, deploy
from raycol.serving.served_version import read_served_version
from raycol.storage import Store


def choose(store: Store, version: int | None) -> tuple[int, int]:
    done = deploy(DeployConfig(target=store.uri, version=version))
    return done.before, done.version


def test_a_version_is_recorded_and_rolled_back(store: Store) -> None:
    assert choose(store, 2) == (3, 2)
    pin = read_served_version(store)
    assert pin is not None
    assert (pin.version, pin.newest) == (2, False)
    assert choose(store, None) == (2, 3)
    pin = read_served_version(store)
    assert pin is not None
    assert (pin.version, pin.newest) == (3, True)


@pytest.mark.sockets
def test_invalid_versions_are_rejected_and_not_recorded(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no version 9; the index has 1 to 3"):
        choose(store, 9)
    file = tmp_path / "file"
    file.touch()
    for target, message in ((tmp_path, "not an index"), (file, "is a file; expected the folder of an index")):
        with pytest.raises(InputError, match=message):
            deploy(DeployConfig(target=str(target)))
    with pytest.raises(RaycolError, match="is the endpoint running"):
        deploy(DeployConfig(target="http://127.0.0.1:9"))
    assert read_served_version(store) is None
    choose(store, 3)
    other = ModelInfo(name="other", fingerprint="f" * 16)
    commit_manifest(store, read_manifest(store).model_copy(update={"version": 4, "model": other}))
    with pytest.raises(InputError, match="version 4 has another model"):
        choose(store, 4)
    pin = read_served_version(store)
    assert pin is not None
    assert pin.version == 3
