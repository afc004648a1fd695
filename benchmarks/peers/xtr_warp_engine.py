"""xtr-warp-rs (Montserrat; WARP in Rust): 4 bits, otherwise its defaults, on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch_engine import TorchEngine, tensors
from xtr_warp.search import XTRWarp

NAME = f"xtr-warp-rs {version('xtr-warp-rs').rsplit('.', 1)[0]}"


def build(folder: Path, documents: list[np.ndarray[Any, Any]]) -> None:
    """Build an index of the documents' tokens, float32 [tokens, dim]."""
    XTRWarp(str(folder)).create(tensors(documents), device="cpu", nbits=4, show_progress=False)


class Engine(TorchEngine):
    """An index that is open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(XTRWarp(str(folder)).load(device="cpu"))
