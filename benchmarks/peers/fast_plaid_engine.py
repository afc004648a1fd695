"""fast-plaid (Sourty et al., PyLate's engine): 4 bits, otherwise its defaults, on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_plaid import search

NAME = f"fast-plaid {version('fast-plaid').rsplit('.', 1)[0]}"


def build(folder: Path, documents: list[np.ndarray[Any, Any]]) -> None:
    """Build an index of the documents' tokens, float32 [tokens, dim]."""
    engine = search.FastPlaid(index=str(folder), device="cpu")
    engine.create(documents_embeddings=list(map(torch.from_numpy, documents)), nbits=4)


class Engine:
    """An index that is open."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._engine = search.FastPlaid(index=str(folder), device="cpu")

    def search(
        self, queries: list[np.ndarray[Any, Any]], k: int, settings: dict[str, Any]
    ) -> list[list[tuple[int, float]]]:
        """Positions and scores of the best `k`."""
        found: list[list[tuple[int, float]]] = self._engine.search(
            list(map(torch.from_numpy, queries)), top_k=k, show_progress=False, **settings
        )
        return found
