"""Checkpoints are durable before their manifest is written, and verified before training resumes from them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError, RaycolError
from raycol.models.encoder import load_encoder
from raycol.storage import open_store
from raycol.training import TrainConfig, train
from raycol.training.checkpoints import list_checkpoints, newest_intact, prune, save_checkpoint
from raycol.training.run_storage import publishing_model
from tests.index.disk_model import Disk, write_tree
from tests.index.fault_worker import intercepted
from tests.training.material import settings, weights, write_examples
from tests.training.test_resume import HaltError, until


def write(path: Path, content: bytes) -> None:
    """Write without fsync, as other libraries do, by calls that the disk model intercepts."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, content)
    os.close(descriptor)


def test_a_power_failure_leaves_only_intact_checkpoints(tmp_path: Path) -> None:
    root = tmp_path / "disk" / "store"
    root.mkdir(parents=True)
    save_checkpoint(open_store(root), 1, {}, lambda folder: write(folder / "weights", b"one" * 100))
    disk = Disk(tmp_path / "disk")
    with intercepted(disk.around, Disk.CALLS):
        save_checkpoint(open_store(root), 2, {}, lambda folder: write(folder / "weights", b"two" * 100))
    assert len(disk.failures) > 5
    for number, tree in enumerate([*disk.failures, disk.durable()]):
        root = tmp_path / f"trial{number}"
        write_tree(tree, root)
        store = open_store(root / "store")
        checkpoints = list_checkpoints(store)
        assert [checkpoint.step for checkpoint in checkpoints] in ([1], [1, 2]), disk.failures.get(tree)
        for checkpoint in checkpoints:
            content = (checkpoint.open(store) / "weights").read_bytes()
            assert content == (b"one", b"two")[checkpoint.step - 1] * 100, disk.failures.get(tree)
    assert [checkpoint.step for checkpoint in checkpoints] == [1, 2], "a saved checkpoint survives a power failure"


def test_a_power_failure_leaves_an_intact_model_or_none(tmp_path: Path) -> None:
    """The checkpoints are removed as soon as the model has its final name."""
    out = tmp_path / "disk" / "model"
    out.parent.mkdir()
    disk = Disk(out.parent)
    with intercepted(disk.around, Disk.CALLS), publishing_model(str(out)) as folder:
        os.mkdir(folder)
        os.mkdir(folder / "1_Dense")
        write(folder / "weights", b"one" * 100)
        write(folder / "1_Dense" / "weights", b"two" * 100)
    for number, tree in enumerate([*disk.failures, disk.durable()]):
        root = tmp_path / f"trial{number}"
        write_tree(tree, root)
        if (root / "model").exists():
            assert (root / "model" / "weights").read_bytes() == b"one" * 100
            assert (root / "model" / "1_Dense" / "weights").read_bytes() == b"two" * 100
    assert (root / "model").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def halted(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training interrupted after step 5 of 6; the model of an uninterrupted one is in the folder `whole`."""
    folder = tmp_path_factory.mktemp("halted")
    data = write_examples(folder / "pairs.jsonl")
    config = settings(tiny_colbert, data, folder / "m", max_steps=6, save_every=2)
    train(config.model_copy(update={"out": str(folder / "whole")}), executor=IN_PROCESS)
    with pytest.raises(HaltError):
        train(config, on_record=until(5), executor=IN_PROCESS)
    return config


def copied(halted: TrainConfig, folder: Path) -> TrainConfig:
    """Copy the interrupted training to another folder."""
    shutil.copytree(Path(halted.out).parent / ".m-training", folder / ".m-training")
    return halted.model_copy(update={"out": str(folder / "m")})


def assert_same_model(halted: TrainConfig, out: str) -> None:
    whole = Path(halted.out).parent / "whole"
    one, other = (weights(load_encoder(folder, device="cpu")) for folder in (whole, out))
    assert np.array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", flip),
        ("weights.safetensors", zero),
        ("weights.safetensors", cut),
        ("optimiser.safetensors", flip),
        ("optimiser.json", flip),
        ("manifest", zero),
    ],
)
def test_training_falls_back_to_the_newest_intact_checkpoint(
    halted: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], name: str
) -> None:
    config = copied(halted, tmp_path)
    store = open_store(tmp_path / ".m-training")
    first, second = list_checkpoints(store)
    assert (first.step, second.step) == (2, 4)
    damage(Path(store.uri) / (f"{second.folder}/{name}" if name != "manifest" else "checkpoints/00000004.json"))
    steps: list[float] = []
    with caplog.at_level(logging.WARNING, "raycol"):
        train(config, on_record=lambda record: steps.append(record["step"]), executor=IN_PROCESS)
    assert steps == [3, 4, 5, 6]
    assert "damaged" in caplog.text
    assert "00000004" in caplog.text
    assert_same_model(halted, config.out)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_last_checkpoint_is_trained_again(
    halted: TrainConfig, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """All steps are done, but the model must not be exported from an earlier checkpoint."""
    config = copied(halted, tmp_path)

    def halt(done: float, total: float | None = None, note: str = "") -> None:
        if note == "saving the model":
            raise HaltError

    with pytest.raises(HaltError):
        train(config, halt, executor=IN_PROCESS)
    store = open_store(tmp_path / ".m-training")
    assert json.loads(store.read("done.json", 99)) == {"step": 6}
    damage(Path(store.uri) / list_checkpoints(store)[-1].folder / "weights.safetensors")
    assert train(config, executor=IN_PROCESS).best_step == 6
    assert_same_model(halted, config.out)


@pytest.mark.slow
def test_damaged_training_data_is_not_trained_on(halted: TrainConfig, tmp_path: Path) -> None:
    config = copied(halted, tmp_path)
    flip(max((tmp_path / ".m-training" / "data").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size))
    with pytest.raises(RaycolError, match=r"\.m-training: the training's storage is damaged .*; remove it"):
        train(config, executor=IN_PROCESS)


def test_prune_removes_the_files_of_a_killed_writer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for step in (1, 2):
        save_checkpoint(store, step, {}, lambda folder, step=step: write(folder / "weights", b"%d" % step))
    shutil.copytree(
        tmp_path / list_checkpoints(store)[0].folder, tmp_path / "checkpoints" / "00000002-0123456789abcdef"
    )
    (tmp_path / "00000002-unfinished-0123").mkdir()
    (tmp_path / "00000000-unfinished-4567").touch()
    prune(store, 1, "nDCG@10")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert newest_intact(store) == list_checkpoints(store)[-1]


@pytest.mark.slow
def test_a_storage_is_locked_while_training(halted: TrainConfig, tmp_path: Path) -> None:
    config = copied(halted, tmp_path)

    def disturb(record: dict[str, float]) -> None:
        with pytest.raises(InputError, match=r"\.m-training: another command is training there"):
            train(config, executor=IN_PROCESS)

    train(config, on_record=disturb, executor=IN_PROCESS)
    assert_same_model(halted, config.out)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
