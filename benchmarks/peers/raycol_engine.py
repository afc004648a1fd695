"""raycol: 4 bits, otherwise its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raycol.index import Document, Index

NAME = "raycol"


def build(folder: Path, documents: list[np.ndarray[Any, Any]]) -> None:
    """Build an index of the documents' tokens, float32 [tokens, dim]."""
    Index.create(folder, (Document(str(number), tokens) for number, tokens in enumerate(documents)))


class Engine:
    """An index that is open."""

    def __init__(self, folder: Path) -> None:
        self._index = Index.open(folder)

    def search(
        self, queries: list[np.ndarray[Any, Any]], k: int, settings: dict[str, Any]
    ) -> list[list[tuple[int, float]]]:
        """Positions and scores of the best `k`."""
        found = self._index.search(queries, k, threads=1, **settings)
        return [[(int(hit.id), hit.score) for hit in hits] for hits in found]
