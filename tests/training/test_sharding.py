"""Fully sharded weights: losses, evaluations and weights are those of DistributedDataParallel, also after resuming."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raycol.storage import open_store
from raycol.training.checkpoints import open_average
from tests.training.material import end_group, fit_in_process, losses, settings, start_group, write_examples

CASES = {
    "cached": {"mini_batch_tokens": 24, "keep_initial": 0.5, "accumulate": 2, "average_checkpoints": 2},
    "contrastive": {"objective": "contrastive", "freeze_layers": 1, "gradient_checkpointing": True, "ema_decay": 0.7},
}


class HaltError(Exception):
    pass


def train_both(model: Path, data: Path, folder: Path, rank: int) -> None:
    """Train with and without sharding; with sharding in two parts, the second one from a checkpoint."""
    from safetensors.torch import load_file

    for name, values in CASES.items():
        common = {"num_workers": 2, "max_steps": 3, "held_out": 6, "eval_every": 2, "save_every": 2, **values}
        found = []
        for shards in (False, True):
            place, store = folder / f"{name}-{shards}-{rank}", open_store(folder / f"{name}-{shards}")
            config = settings(model, data, folder / "m", shard_weights=shards, **common)
            if shards:

                def halt(record: dict[str, float]) -> None:
                    if record["step"] == 3 and "loss" in record:
                        raise HaltError

                with pytest.raises(HaltError):
                    fit_in_process(config, place, store, halt)
            _, history = fit_in_process(config, place, store)
            metrics = [entry["nDCG@10"] for entry in history if "nDCG@10" in entry]
            if average := open_average(store):  # rank 0 has written it
                metrics.append(average[0].metrics["nDCG@10"])
            tensors = {}
            for file in (folder / f"{name}-{shards}").glob("checkpoints/00000003-*/[aw]*.safetensors"):
                tensors |= {f"{file.stem} {key}": tensor for key, tensor in load_file(file).items()}
            found.append({"losses": losses(history), "metrics": metrics, "weights": sorted(tensors)})
            np.save(folder / f"{name}-{shards}.npy", np.concatenate([tensors[key].ravel() for key in sorted(tensors)]))
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.long
def test_sharded_weights_equal_whole_ones(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl", 38)
    work = [partial(train_both, tiny_colbert, data, tmp_path, rank) for rank in range(2)]
    end_group(start_group(work, tmp_path / "group"))
    for name in CASES:
        whole, sharded = json.loads((tmp_path / f"{name}-0.json").read_text())
        assert len(whole["losses"]) == 3
        assert len(whole["metrics"]) == 3 + ("average_checkpoints" in CASES[name])
        assert any(key.startswith("average ") for key in whole["weights"]) == ("ema_decay" in CASES[name])
        assert whole["losses"] == pytest.approx(sharded["losses"], rel=1e-5)
        assert whole["metrics"] == pytest.approx(sharded["metrics"], abs=1e-6)
        assert whole["weights"] == sharded["weights"]
        one, other = (np.load(tmp_path / f"{name}-{shards}.npy") for shards in (False, True))
        np.testing.assert_allclose(one, other, atol=1e-5)
