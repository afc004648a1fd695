"""Token pooling of documents inside the loss, with the function that pools them in an index.

Clusters are chosen by the current embeddings, without gradient; means and their normalisation are differentiable. So
gradients reach every token (Clavié et al. 2024, arXiv 2409.14683, pool at indexing only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from torch import Tensor


@dataclass(frozen=True)
class Pooled:
    """The pooled tokens of texts, and the way back to their tokens.

    Shapes: B texts, N tokens, M pooled tokens, D dimensions.

    Args:
        leaf_ND: the tokens, float32 or more.
        pooled_MD: the pooled tokens, text after text, with their graph.
        lengths_B: number of pooled tokens of each text, on the CPU.
    """

    leaf_ND: Tensor
    pooled_MD: Tensor
    lengths_B: Tensor

    def gradient(self, gradient_MD: Tensor) -> Tensor:
        """Return the gradient of the tokens, from that of the pooled tokens."""
        (gradient_ND,) = torch.autograd.grad(self.pooled_MD, self.leaf_ND, gradient_MD.to(self.pooled_MD.dtype))
        return gradient_ND


def pool(tokens_ND: Tensor, lengths: Sequence[int], pool_factor: float) -> Pooled:
    """Pool each text's tokens to about 1 / `pool_factor` of them.

    Args:
        tokens_ND: text after text.
        lengths: number of tokens of each text.
        pool_factor: above 1.
    """
    pooling = HierarchicalTokenPooling(pool_factor)
    # Distances are computed on the CPU, in full precision.
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        leaf_ND = tokens_ND.detach().to(torch.promote_types(tokens_ND.dtype, torch.float32)).requires_grad_()
        pooled = [pooling.pool_one(tokens_TD) for tokens_TD in leaf_ND.split(list(lengths))]
        return Pooled(leaf_ND, torch.cat(pooled), torch.tensor([len(one) for one in pooled]))
