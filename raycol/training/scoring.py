"""The scoring functions of training, whose memory does not grow with the number of token pairs.

Shapes: Q queries of S tokens, G groups of W documents, N documents of T tokens, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers.multi_vector_encoder.scoring import XTRScores
from torch import Tensor

from raycol.training.config import TrainConfig

# (queries [Q, S, D], documents [G, W, T, D], queries_mask=, documents_mask=) -> scores.
ScoringFunction = Callable[..., Tensor]

# Similarities of token pairs that MaxSim computes at a time.
MAX_SIMILARITIES = 1 << 24
# Score of a document without tokens, below all others.
_NO_TOKENS = -1e9


def scoring_of_all(config: TrainConfig) -> ScoringFunction:
    """The configured scores of all documents for each query, [Q, G * W]."""
    if config.scoring == "xtr":
        return XTRScores(top_k=config.xtr_tokens)  # type: ignore[no-any-return]
    return _per_token(scores_of_all) if config.scoring == "mean-maxsim" else _maxsim(config, scores_of_all)


def scoring_of_own(config: TrainConfig) -> ScoringFunction:
    """The configured scores of each query's own group of documents, [Q, W]; Q is G. Not for XTR."""
    return _per_token(scores_of_own) if config.scoring == "mean-maxsim" else _maxsim(config, scores_of_own)


def scores_of_all(queries_QSD: Tensor, documents_GWTD: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
    """MaxSim of all documents for each query, [Q, G * W]."""
    scores_QN: Tensor = _MaxSim.apply(
        queries_QSD, documents_GWTD.flatten(0, 1), queries_mask, documents_mask.flatten(0, 1)
    )
    return scores_QN


def scores_of_own(queries_QSD: Tensor, documents_QWTD: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
    """MaxSim of each query's own documents, [Q, W]."""
    similarities_QWST = queries_QSD[:, None] @ documents_QWTD.transpose(2, 3)
    hidden_QW1T = ~documents_mask[:, :, None]
    lowest = torch.finfo(similarities_QWST.dtype).min
    best_QWS = _precise(similarities_QWST.masked_fill(hidden_QW1T, lowest).max(dim=-1).values)
    scores_QW = (best_QWS * queries_mask[:, None]).sum(dim=-1)
    return scores_QW.masked_fill(~documents_mask.any(dim=-1), _NO_TOKENS)


class _MaxSim(torch.autograd.Function):
    """MaxSim of queries with all documents.

    The forward pass keeps, instead of the similarities, which token of each document is the nearest to each query
    token. So the backward pass is a weighted sum of embeddings rather than two products of matrices.
    """

    @staticmethod
    def forward(
        ctx: Any, queries_QSD: Tensor, documents_NTD: Tensor, queries_mask_QS: Tensor, documents_mask_NT: Tensor
    ) -> Tensor:
        n_documents, length = documents_mask_NT.shape
        tokens_KD = queries_QSD.flatten(0, 1)  # K = Q * S
        best_KN = tokens_KD.new_empty(len(tokens_KD), n_documents)
        nearest_KN = torch.empty(best_KN.shape, dtype=torch.int32, device=best_KN.device)
        starts_N = torch.arange(0, n_documents * length, length, device=best_KN.device)
        size = max(1, MAX_SIMILARITIES // (len(tokens_KD) * length))
        for first in range(0, n_documents, size):
            part = slice(first, first + size)
            similarities_KNT = (tokens_KD @ documents_NTD[part].flatten(0, 1).T).unflatten(1, (-1, length))
            similarities_KNT.masked_fill_(~documents_mask_NT[part], torch.finfo(similarities_KNT.dtype).min)
            best_KN[:, part], nearest = similarities_KNT.max(dim=-1)
            nearest_KN[:, part] = nearest + starts_N[part]
        empty_N = ~documents_mask_NT.any(dim=-1)
        ctx.save_for_backward(queries_QSD, documents_NTD, queries_mask_QS, empty_N, nearest_KN)
        best_QSN = _precise(best_KN).unflatten(0, (len(queries_QSD), -1))
        return (best_QSN * queries_mask_QS[:, :, None]).sum(dim=1).masked_fill(empty_N, _NO_TOKENS)

    @staticmethod
    def backward(ctx: Any, gradient_QN: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        queries_QSD, documents_NTD, queries_mask_QS, empty_N, nearest_KN = ctx.saved_tensors
        gradient_QN = gradient_QN.masked_fill(empty_N, 0)
        weights_KN = (gradient_QN[:, None] * queries_mask_QS[:, :, None]).flatten(0, 1)
        with torch.enable_grad():
            tokens_MD = _precise(documents_NTD.detach().flatten(0, 1)).requires_grad_()  # M = N * T
            # The gradient of query tokens; its own derivative, in their direction, is that of document tokens.
            queries_gradient_KD = torch.nn.functional.embedding_bag(
                nearest_KN, tokens_MD, mode="sum", per_sample_weights=weights_KN.to(tokens_MD.dtype)
            )
        (documents_gradient_MD,) = torch.autograd.grad(
            queries_gradient_KD, tokens_MD, _precise(queries_QSD.flatten(0, 1))
        )
        return (
            queries_gradient_KD.detach().view_as(queries_QSD).to(queries_QSD.dtype),
            documents_gradient_MD.view_as(documents_NTD).to(documents_NTD.dtype),
            None,
            None,
        )


def _precise(values: Tensor) -> Tensor:
    """Half precision as float32: sums of 16-bit numbers lose the differences between scores."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_token(scoring: ScoringFunction) -> ScoringFunction:
    """Divide scores by the query's number of tokens."""

    def mean(queries_QSD: Tensor, documents_GWTD: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        return scoring(queries_QSD, documents_GWTD, queries_mask, documents_mask) / queries_mask.sum(dim=1)[:, None]

    return mean


def _maxsim(config: TrainConfig, plain: ScoringFunction) -> ScoringFunction:
    """On a GPU the fused kernel of late-interaction-kernels in place of a function here, if the package is installed.

    `backward="unified"` keeps gradients in float32; the package's default rounds some of them to half precision.
    """
    if not config.on_gpu:
        return plain
    try:
        from late_interaction_kernels import maxsim
    except ImportError:
        return plain

    # The kernel selects the layout by the number of axes: it scores [n_docs, tokens, dim] against every query and
    # [n_queries, n_ways, tokens, dim] against each group's own query. Both functions get groups.
    def fused(queries_QSD: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        if plain is scores_of_all:
            documents, documents_mask = documents.flatten(0, 1), documents_mask.flatten(0, 1)
        return maxsim(queries_QSD, documents, queries_mask, documents_mask, backward="unified")  # type: ignore[no-any-return]

    return fused
