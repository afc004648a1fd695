"""The objectives: sentence-transformers' losses, with the scoring that the configuration names.

Losses average over a worker's queries, and DistributedDataParallel over workers; with equal batches, which the plan
gives, that is the average over the whole batch.
"""

from __future__ import annotations

from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorDistillKLDivLoss,
    MultiVectorMarginMSELoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.multi_vector_encoder.scoring import (
    XTRKDScores,
    XTRScores,
    colbert_kd_scores,
    colbert_scores,
    colbert_scores_pairwise,
    mean_colbert_kd_scores,
    mean_colbert_scores,
    mean_colbert_scores_pairwise,
)
from torch import Tensor, nn

from raycol.training.config import TrainConfig

Score = Any  # a callable of embeddings and masks that returns scores


def make_loss(encoder: MultiVectorEncoder, config: TrainConfig) -> nn.Module:
    """The loss of a configuration over an encoder."""
    gather = config.gather_across_workers and config.num_workers > 1
    if config.objective in ("cached", "contrastive"):
        common = {
            "scale": 1 / config.temperature,
            "similarity_fct": _scores(config, colbert_scores, mean_colbert_scores, XTRScores),
            "mini_batch_size": config.mini_batch_size,
            "gather_across_devices": gather,
        }
        if config.objective == "cached":
            return CachedMultiVectorMultipleNegativesRankingLoss(encoder, **common)
        return MultiVectorMultipleNegativesRankingLoss(encoder, **common)
    if config.objective == "distillation":
        scores = _scores(config, colbert_kd_scores, mean_colbert_kd_scores, XTRKDScores)
        return MultiVectorDistillKLDivLoss(
            encoder,
            similarity_fct=stretched(scores) if config.normalize_scores else scores,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            mini_batch_size=config.mini_batch_size,
        )
    pairwise = mean_colbert_scores_pairwise if config.scoring == "mean-maxsim" else colbert_scores_pairwise
    return MultiVectorMarginMSELoss(encoder, similarity_fct=pairwise, mini_batch_size=config.mini_batch_size)


def _scores(config: TrainConfig, maxsim: Score, mean: Score, xtr: Any) -> Score:
    """That of several ways to score which the configuration names."""
    if config.scoring == "xtr":
        return xtr(top_k=config.xtr_tokens)
    if config.scoring == "mean-maxsim":
        return mean
    fused = _fused() if config.on_gpu else None
    return fused[maxsim] if fused else maxsim


def _fused() -> dict[Score, Score] | None:
    """What late-interaction-kernels (extra `gpu`) has in place of sentence-transformers' scores, by these.

    The similarities of all pairs of tokens are not stored. Its gradients are asked for in float32: by its own choice
    some of them would be rounded to half precision.
    """
    try:
        from late_interaction_kernels import maxsim
    except ImportError:
        return None

    # The kernel tells two layouts apart by the number of axes: [n_docs, tokens, dim] are scored for all queries,
    # [n_queries, n_ways, tokens, dim] for their own query each. The losses have groups of documents in both cases.
    def of_all(queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        flat, flat_mask = documents.flatten(0, 1), documents_mask.flatten(0, 1)
        return maxsim(queries, flat, queries_mask, flat_mask, backward="unified")  # type: ignore[no-any-return]

    def of_own(queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        return maxsim(queries, documents, queries_mask, documents_mask, backward="unified")  # type: ignore[no-any-return]

    return {colbert_scores: of_all, colbert_kd_scores: of_own}


def stretched(scores: Score) -> Score:
    """Scores of each query stretched to [0, 1]: min-max normalisation, as PyLate's Distillation has it."""

    def stretch(*embeddings: Tensor, **masks: Any) -> Tensor:
        found_QN = scores(*embeddings, **masks)
        low_Q1 = found_QN.min(dim=-1, keepdim=True).values
        spread_Q1 = found_QN.max(dim=-1, keepdim=True).values - low_Q1
        return (found_QN - low_Q1) / (spread_Q1 + 1e-8)

    return stretch
