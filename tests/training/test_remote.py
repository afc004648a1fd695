"""Resuming a training whose storage is in an object store, without Ray; with Ray in tests/storage/."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.errors import RaycolError
from raycol.storage import open_store
from raycol.training.checkpoints import list_checkpoints
from tests.storage.server import Server, denied, listed
from tests.training.material import fit_in_process, losses, settings, weights, write_examples
from tests.training.test_resume import HaltError, until


@pytest.mark.slow
@pytest.mark.long
def test_a_resumed_training_ends_with_the_same_weights(
    tiny_colbert: Path, tmp_path: Path, s3: str, s3_server: Server
) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    config = settings(tiny_colbert, data, tmp_path / "m", max_steps=6, save_every=2)
    encoder, history = fit_in_process(config, tmp_path / "whole", open_store(tmp_path / "a"))
    store = open_store(s3)
    with pytest.raises(HaltError):
        fit_in_process(config, tmp_path / "parts", store, until(3))
    assert [saved.step for saved in list_checkpoints(store)] == [2]

    def no_record(request: Any, start: Any) -> Any:
        return denied(request, start) if request["PATH_INFO"].endswith("00000004.json") else None

    with s3_server.failing(no_record), pytest.raises(RaycolError, match=f"{s3}/.*/00000004.json: cannot be written"):
        fit_in_process(config, tmp_path / "parts", store)
    assert [saved.step for saved in list_checkpoints(store)] == [2]
    again, history_again = fit_in_process(config, tmp_path / "parts", open_store(s3))
    assert np.array_equal(weights(encoder), weights(again))
    assert losses(history) == losses(history_again)
    # The two newest checkpoints.
    assert {name.split("/")[1][:8] for name in listed(s3)} == {"00000004", "00000006"}
