"""Preparation of the encoder in a training worker."""

from pathlib import Path

import torch

from raycol.models.encoder import load_encoder
from raycol.training.worker import freeze_unused
from tests.training.material import save_albert


def test_only_unused_weights_are_frozen(tiny_backbone: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    for model in (save_albert(tiny_backbone, tmp_path / "albert"), tiny_colbert):
        encoder = load_encoder(model, device="cpu")
        encoder[0].auto_model.unused = torch.nn.Linear(2, 2)
        unused = {name for name, _ in encoder.named_parameters() if "pooler" in name or "unused" in name}
        freeze_unused(encoder)
        assert {name for name, each in encoder.named_parameters() if not each.requires_grad} == unused
        assert all(each.grad is None for each in encoder.parameters())
