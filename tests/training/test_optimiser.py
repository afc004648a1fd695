"""Learning rates and weight decay by group, frozen layers, Muon, the loss scaler, attention implementations."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.optim import AdamW, Muon

from raycol.errors import InputError
from raycol.storage import open_store
from raycol.training import TrainConfig
from raycol.training.optimiser import MuonAdamW, make_optimiser
from raycol.training.state import OPTIMISER, SETTINGS, load_optimiser, snapshot_optimiser
from raycol.training.worker import new_encoder
from tests.training.material import fit_in_process, losses, save_albert, settings, weights, write_examples

BASE = 1e-3
GROUPED = {
    "optimizer": "muon", "learning_rate": BASE, "head_learning_rate": 1e-2, "layer_decay": 0.5, "weight_decay": 0.1,
    "warmup": 0.5,
}  # fmt: skip


def groups_of(config: TrainConfig) -> dict[str, tuple[float, float, bool]]:
    """Learning rate, weight decay and whether Muon updates it, of each trainable parameter by name."""
    encoder = new_encoder(config, "cpu")
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    optimiser = make_optimiser(encoder, encoder, config)
    return {
        names[parameter]: (group["lr"], group["weight_decay"], group.get("muon", False))
        for group in optimiser.param_groups
        for parameter in group["params"]
    }


def test_groups(tiny_colbert: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, tmp_path, tmp_path / "m", **GROUPED)
    groups = groups_of(config)
    expected = {
        "embeddings.word_embeddings.weight": (BASE / 4, 0.1, False),
        "embeddings.LayerNorm.weight": (BASE / 4, 0.0, False),
        "encoder.layer.0.output.dense.weight": (BASE / 2, 0.1, True),
        "encoder.layer.0.output.dense.bias": (BASE / 2, 0.0, False),
        "encoder.layer.1.output.dense.weight": (BASE, 0.1, True),
        "encoder.layer.1.output.LayerNorm.weight": (BASE, 0.0, False),
        "linear.weight": (1e-2, 0.1, False),
    }
    for ending, values in expected.items():
        (found,) = (group for name, group in groups.items() if name.endswith(ending))
        assert found == pytest.approx(values), ending
    frozen = groups_of(config.model_copy(update={"freeze_layers": 1, "layer_decay": 1.0, "optimizer": "adamw"}))
    assert not [name for name in frozen if "embeddings" in name or "layer.0" in name]
    assert {rate for rate, _, _ in frozen.values()} == {BASE, 1e-2}
    own = groups_of(config.model_copy(update={"embedding_learning_rate": 2e-3, "optimizer": "adamw"}))
    assert {rate for name, (rate, _, _) in own.items() if "embeddings" in name} == {2e-3}


def test_the_first_group_has_the_learning_rate_of_records(tiny_colbert: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, tmp_path, tmp_path / "m", **GROUPED)
    encoder = new_encoder(config, "cpu")
    assert make_optimiser(encoder, encoder, config).param_groups[0]["lr"] == BASE


def test_layers_that_do_not_exist_are_refused(tiny_colbert: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, tmp_path, tmp_path / "m", freeze_layers=3)
    with pytest.raises(InputError, match="freeze_layers is 3, but the model has 2 layers"):
        new_encoder(config, "cpu")
    albert = save_albert(tiny_backbone, tmp_path / "albert")
    with pytest.raises(InputError, match="freeze_layers: AlbertModel has no list of 2 layers"):
        new_encoder(settings(albert, tmp_path, tmp_path / "m", freeze_layers=1), "cpu")
    config = settings(albert, tmp_path, tmp_path / "m", layer_decay=0.5)
    with pytest.raises(InputError, match="layer_decay: AlbertModel has no list of 2 layers"):
        groups_of(config)


def test_muon_and_adamw_in_one_equal_both_alone(tmp_path: Path) -> None:
    """Also after saving and loading the state half way, with a loss scaler."""
    torch.manual_seed(0)
    matrix, vector = torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(5))
    matrix_alone, vector_alone = copy.deepcopy(matrix), copy.deepcopy(vector)
    values = {"lr": 0.1, "weight_decay": 0.05}
    alone = [Muon([matrix_alone], adjust_lr_fn="match_rms_adamw", **values), AdamW([vector_alone], **values)]

    def both() -> MuonAdamW:
        groups = [{"params": [matrix], "muon": True, **values}, {"params": [vector], "muon": False, **values}]
        return MuonAdamW(groups)

    optimiser = both()
    scaler = torch.amp.GradScaler("cpu")
    for step in range(6):
        if step == 3:
            scaler.scale(torch.ones(()))  # creates its state
            scaler.load_state_dict(scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 7})
            schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1)
            tensors, rest = snapshot_optimiser(optimiser, schedule, scaler)
            save_file(tensors, tmp_path / OPTIMISER)
            (tmp_path / SETTINGS).write_text(json.dumps(rest))
            optimiser, other = both(), torch.amp.GradScaler("cpu")
            schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1)
            load_optimiser(tmp_path, optimiser, schedule, other)
            assert other.state_dict() == scaler.state_dict()
        for one, reference in ((matrix, matrix_alone), (vector, vector_alone)):
            one.grad = torch.randn_like(one)
            reference.grad = one.grad.clone()
        optimiser.step()
        for each in alone:
            each.step()
    assert torch.equal(matrix, matrix_alone)
    torch.testing.assert_close(vector, vector_alone, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("values", [GROUPED, {"freeze_layers": 1}], ids=["muon", "frozen"])
def test_a_resumed_training_has_the_state_of_its_optimiser(tiny_colbert: Path, tmp_path: Path, values: dict) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    first = new_encoder(settings(tiny_colbert, data, tmp_path / "m"), "cpu")
    encoder, history = fit_in_process(
        settings(tiny_colbert, data, tmp_path / "m", max_steps=6, **values), tmp_path / "a"
    )
    store = open_store(tmp_path / "store")

    class HaltError(Exception):
        pass

    def halt(record: dict[str, float]) -> None:
        if record["step"] == 5:
            raise HaltError

    config = settings(tiny_colbert, data, tmp_path / "m", max_steps=6, save_every=3, **values)
    with pytest.raises(HaltError):
        fit_in_process(config, tmp_path / "b", store, halt)
    again, history_again = fit_in_process(config, tmp_path / "b", store)
    assert np.array_equal(weights(encoder), weights(again))
    assert losses(history) == losses(history_again)
    before, after = first.state_dict(), encoder.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if ".embeddings." in name or ".layer.0." in name}
    assert unchanged - {name for name in before if "position_ids" in name} == (
        frozen if "freeze_layers" in values else set()
    )


@pytest.mark.slow
def test_attention_implementations_give_the_same_losses(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    found = []
    for name in ("sdpa", "eager"):
        config = settings(tiny_colbert, data, tmp_path / "m", attn_implementation=name)
        encoder, history = fit_in_process(config, tmp_path / name)
        assert encoder[0].model.config._attn_implementation == name
        found.append(losses(history))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_attention_that_cannot_be_is_refused(tiny_colbert: Path, tmp_path: Path) -> None:
    values = {"attn_implementation": "flash_attention_2", "dtype": "bfloat16", "resources": {"GPU": 1}}
    config = settings(tiny_colbert, tmp_path, tmp_path / "m", **values)
    with pytest.raises(InputError, match="flash_attention_2 needs the package flash-attn; pip install flash-attn"):
        new_encoder(config, "cpu")
    for wrong, message in (
        ({**values, "resources": {"CPU": 1}}, "needs GPU workers"),
        ({**values, "dtype": "float32"}, "dtype bfloat16 or float16"),
        ({"dtype": "float16"}, "dtype is float16, which needs GPU workers"),
        ({"freeze_layers": 1, "lora_rank": 4}, "leave out freeze_layers or lora_rank"),
        ({"freeze_layers": 1, "embedding_learning_rate": 1e-3}, "embedding_learning_rate has no effect"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(tiny_colbert, tmp_path, tmp_path / "m", **wrong)
