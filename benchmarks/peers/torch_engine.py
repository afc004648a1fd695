"""What engines that take torch tensors have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def tensors(arrays: list[np.ndarray[Any, Any]]) -> list[torch.Tensor]:
    """Arrays as tensors over the same memory."""
    return [torch.from_numpy(array) for array in arrays]


class TorchEngine:
    """An index that is open, behind `search(tensors, top_k=..., show_progress=..., **settings)`."""

    def __init__(self, engine: Any) -> None:
        torch.set_num_threads(1)
        self._engine = engine

    def search(
        self, queries: list[np.ndarray[Any, Any]], k: int, settings: dict[str, Any]
    ) -> list[list[tuple[int, float]]]:
        """Positions and scores of the best `k`."""
        found: list[list[tuple[int, float]]] = self._engine.search(
            tensors(queries), top_k=k, show_progress=False, **settings
        )
        return found
