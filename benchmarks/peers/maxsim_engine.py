"""Exact MaxSim in torch over the original embeddings, every document of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

NAME = "exact MaxSim, torch"
_BLOCK = 65536


class Engine:
    """The embeddings that other engines index, in memory."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._tokens_TD = torch.from_numpy(np.load(folder.parent / "tokens.npy"))
        self._lengths_N = torch.from_numpy(np.load(folder.parent / "lengths.npy"))
        self._ends_N = self._lengths_N.cumsum(0)

    def search(
        self, queries: list[np.ndarray[Any, Any]], k: int, settings: dict[str, Any]
    ) -> list[list[tuple[int, float]]]:
        """Positions and scores of the best `k`."""
        found = []
        for query_QD in map(torch.from_numpy, queries):
            best, positions = self._scores(query_QD).topk(k)
            found.append(list(zip(positions.tolist(), best.tolist(), strict=True)))
        return found

    def _scores(self, query_QD: torch.Tensor) -> torch.Tensor:
        ends_N = self._ends_N
        parts, start, first = [], 0, 0
        while start < len(ends_N):
            stop = max(start + 1, int(torch.searchsorted(ends_N, first + _BLOCK, right=True)))
            last = int(ends_N[stop - 1])
            similarity_TQ = self._tokens_TD[first:last] @ query_QD.T
            best_NQ = torch.segment_reduce(similarity_TQ, "max", lengths=self._lengths_N[start:stop])
            parts.append(best_NQ.sum(dim=1))
            start, first = stop, last
        return torch.cat(parts)
