"""Decodes tokens on a torch device, from the arrays of a partition: `Codebook.decode` in torch.

Shapes: T tokens, D dimensions, B residual bytes per token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.codebook import GAIN_BYTES, RESIDUALS, SCALES, Codebook
from raycol.index.codec.protocol import TokenCodes
from raycol.index.kernels.maxsim import GAINS


class DeviceDecoder:
    """Decoder of a codebook on a device, a `torch.device`."""

    def __init__(self, codebook: Codebook, device: Any) -> None:
        import torch

        self._torch, self._device, self._bits = torch, device, codebook.bits
        self._centroids_KD, self._lows_D, self._steps_D, self._gains = (
            torch.tensor(array, device=device)
            for array in (codebook.centroids_KD, codebook.lows_D, codebook.steps_D, GAINS)
        )

    def __call__(self, tokens: TokenCodes) -> Any:
        """Return decoded tokens, a float32 tensor [T, D]."""
        torch, arrays = self._torch, tokens.arrays
        packed_TB = self._on_device(arrays[RESIDUALS])
        mask = 2**self._bits - 1
        planes = [(packed_TB >> (plane * self._bits)) & mask for plane in range(8 // self._bits)]
        residuals_TD = self._lows_D + self._steps_D * torch.cat(planes, dim=1).float()
        gains_T = self._gains[self._on_device(arrays[GAIN_BYTES], np.int64)]
        directions_TD = self._centroids_KD[self._on_device(tokens.codes_T, np.int64)] + gains_T[:, None] * residuals_TD
        return directions_TD * self._on_device(arrays[SCALES], np.float32)[:, None]

    def _on_device(self, array: NDArray[Any], dtype: Any = None) -> Any:
        return self._torch.from_numpy(np.asarray(array, dtype)).to(self._device)
