"""Experiment trackers: what TensorBoard's files have, the config, resumed runs, missing packages."""

import json
import struct
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError
from raycol.storage import open_store
from raycol.training import TrainConfig, train
from raycol.training.trackers import check_trackers
from tests.conftest import write_jsonl
from tests.training.material import fit_in_process, settings, write_examples
from tests.training.test_resume import HaltError, until

STEP = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "padded_share", "masked_pairs", "masked_share",
        "memory_bytes")  # fmt: skip


def events(path: Path) -> list:
    """The events of a TensorBoard file: records of a length, its checksum, the event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


@pytest.mark.slow
def test_tensorboard_gets_settings_and_metrics_also_after_a_resume(
    tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "unused"))
    data = write_examples(tmp_path / "pairs.jsonl")
    values = {"max_steps": 4, "save_every": 2, "held_out": 8, "eval_every": 2, "report_to": "tensorboard"}
    config = settings(tiny_colbert, data, tmp_path / "m", **values)
    store = open_store(tmp_path / "store")
    with pytest.raises(HaltError):
        fit_in_process(config, tmp_path / "w", store, until(3))
    began = int(time.time())
    while int(time.time()) == began:  # a file is named by the second
        time.sleep(0.01)
    _, history = fit_in_process(config, tmp_path / "w", store)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("m-")
    first, second = (events(path) for path in sorted(folder.iterdir()))
    # TensorBoard hides what the first start did after the checkpoint.
    assert [event.step for event in second if event.HasField("session_log")] == [3]
    scalars: dict[str, dict[int, float]] = {}
    for event in (*first, *second):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    steps = {entry["step"]: entry for entry in history if "loss" in entry}
    for name in STEP:
        assert scalars[f"train/{name}"] == pytest.approx({step: entry[name] for step, entry in steps.items()}), name
    evaluations = {entry["step"]: entry["nDCG@10"] for entry in history if "nDCG@10" in entry}
    assert [*evaluations] == [0, 2, 4]
    assert scalars["eval/nDCG_at_10"] == pytest.approx(evaluations)
    texts = [v.tensor.string_val[0] for event in second for v in event.summary.value if v.tag.startswith("args")]
    assert json.loads(texts[0]) == config.effective()
    assert not (tmp_path / "unused").exists()


@pytest.mark.skipif(find_spec("comet_ml") is not None, reason="comet-ml is installed")
def test_a_missing_package_is_reported_before_workers_start(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{"query": "rain", "positive": "wind"}] * 20)
    message = "`report_to=comet` needs the package comet-ml; pip install comet-ml, or leave it out"
    with pytest.raises(InputError, match=message):
        train(settings(tiny_colbert, data, tmp_path / "m", report_to="comet"), executor=IN_PROCESS)
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl"}
    check_trackers(settings(tiny_colbert, data, tmp_path / "m", report_to="tensorboard"))  # a dependency of Ray Train


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"report_to": ["wandb", "tensorbord"]}, "report_to is 'tensorbord': expected tensorboard, .* or comet"),
        ({"report_to": "wandb", "out": "s3://bucket/m"}, "out is a URI; set tracking_dir"),
        ({"tracking_dir": "x"}, "tracking_dir has no effect: it is a folder of report_to's trackers"),
    ],
)
def test_unusable_settings(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig.load(overrides={"model": "m", "data": "d", "out": "o", **values})
