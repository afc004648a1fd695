"""fast-plaid (Sourty et al., PyLate's engine): 4 bits, otherwise its defaults, on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fast_plaid import search
from torch_engine import TorchEngine, tensors

NAME = f"fast-plaid {version('fast-plaid').rsplit('.', 1)[0]}"


def build(folder: Path, documents: list[np.ndarray[Any, Any]]) -> None:
    """Build an index of the documents' tokens, float32 [tokens, dim]."""
    engine = search.FastPlaid(index=str(folder), device="cpu")
    engine.create(documents_embeddings=tensors(documents), nbits=4)


class Engine(TorchEngine):
    """An index that is open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(search.FastPlaid(index=str(folder), device="cpu"))
