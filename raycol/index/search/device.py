"""Exact scores on a torch device, by late-interaction-kernels (extra `gpu`). No other module of search uses torch.

Documents are decoded on the device from the packed residuals of the partition and scored in batches of a few thousand.
Scores equal those of the CPU up to the order of additions and the rounding of the device's matrix units.

Shapes: T tokens, M documents, L tokens of the longest document, D dimensions.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.device import DeviceDecoder
from raycol.index.format.partition import Partition
from raycol.index.search.query import Query
from raycol.index.search.scoring import MaxSim

# Values decoded per batch, padding included: 1 GiB in float32.
_MAX_VALUES = 1 << 28


class DeviceScorer(MaxSim):
    """MaxSim of a partition's documents on a torch device.

    Raises:
        InputError: late-interaction-kernels is not installed, or torch cannot use the device.
    """

    def __init__(self, codebook: Codebook, device: str) -> None:
        for library in ("late_interaction_kernels", "torch"):
            if find_spec(library) is None:
                raise InputError(
                    f"device {device!r} needs {library}, which is not installed: pip install 'raycol[gpu]'"
                )
        import torch
        from late_interaction_kernels import maxsim_padded

        self._torch, self._maxsim = torch, maxsim_padded
        try:
            self._device = torch.device(device)
            self._decode = DeviceDecoder(codebook, self._device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device!r} is not available ({str(error).splitlines()[0]})") from None
        self._dim = codebook.dim

    def score(self, query: Query, partition: Partition, documents_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact scores of documents of a partition by their positions, float32 [M]."""
        scores_M = np.empty(len(documents_M), dtype=np.float32)
        lengths_M = partition.offsets_N[documents_M + 1] - partition.offsets_N[documents_M]
        order_M = np.argsort(lengths_M, kind="stable")
        stop = len(order_M)
        while stop:  # the longest first, so that documents of a batch need little padding
            batch_size = max(1, _MAX_VALUES // int(lengths_M[order_M[stop - 1]]) // self._dim)
            batch = order_M[max(0, stop - batch_size) : stop]
            scores_M[batch] = self._score(query, partition, documents_M[batch], lengths_M[batch])
            stop -= len(batch)
        return scores_M

    def _score(
        self, query: Query, partition: Partition, documents_M: NDArray[np.int64], lengths_M: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        torch = self._torch
        starts_M = np.repeat(partition.offsets_N[documents_M] - np.cumsum(lengths_M) + lengths_M, lengths_M)
        token_T = np.arange(lengths_M.sum()) + starts_M
        tokens_TD = self._decode(partition.tokens.take(token_T))
        padded_MLD = torch.nn.utils.rnn.pad_sequence(list(tokens_TD.split(lengths_M.tolist())), batch_first=True)
        query_1QD = torch.from_numpy(query.tokens_QD).to(self._device)[None]
        scores_1M = self._maxsim(
            query_1QD,
            padded_MLD[None],
            torch.tensor([query.n_tokens], device=self._device),
            torch.from_numpy(lengths_M).to(self._device)[None],
        )
        scores_M: NDArray[np.float32] = scores_1M[0].float().cpu().numpy()
        return scores_M
