"""Encoders that were trained for several embedding sizes (Matryoshka: Kusupati et al. 2022, arXiv 2205.13147).

The first dimensions of such an embedding, normalized, are an embedding as well. A saved model lists the smaller sizes
in its `config_sentence_transformers.json`. An encoder that is cut to one of them is an ordinary one with fewer rows in
its last linear layer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sentence_transformers.base.modules import Dense

from raycol.errors import InputError
from raycol.models.discovery import read_json

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

_FILE, _KEY = "config_sentence_transformers.json", "matryoshka"


def record_sizes(folder: Path, sizes: Sequence[int]) -> None:
    """List in a saved model the smaller sizes that it was trained for."""
    settings = json.loads((folder / _FILE).read_text(encoding="utf-8")) | {_KEY: sorted(sizes)}
    (folder / _FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def recorded_sizes(source: str) -> list[int]:
    """The smaller sizes that a saved model was trained for, in ascending order."""
    sizes = read_json(source, _FILE, dict).get(_KEY)
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes):
        return []
    return sorted(sizes)


def cut(encoder: MultiVectorEncoder, size: int) -> None:
    """Reduce an encoder, in place, to the first `size` dimensions, normalized.

    Raises:
        InputError: it does not end with a linear layer without activation or residual connection.
    """
    layer = next((module for module in reversed(list(encoder)) if isinstance(module, Dense)), None)
    if layer is None or layer.use_residual or not isinstance(layer.activation_function, torch.nn.Identity):
        raise InputError(f"embedding_size {size}: the model has no plain projection to cut; leave it out")
    linear = layer.linear
    linear.weight = torch.nn.Parameter(linear.weight.detach()[:size].clone())
    if linear.bias is not None:
        linear.bias = torch.nn.Parameter(linear.bias.detach()[:size].clone())
    layer.out_features = linear.out_features = size
