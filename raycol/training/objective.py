"""The training objectives: sentence-transformers' losses with the configured scoring function.

A loss averages over a worker's queries and DistributedDataParallel averages over workers. The batch plan gives every
worker the same number of queries, so the result is the average over the whole batch.
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

ScoringFunction = Any  # (embeddings, masks) -> scores


def make_loss(encoder: MultiVectorEncoder, config: TrainConfig) -> nn.Module:
    """Return the configured loss over an encoder."""
    gather = config.gather_across_workers and config.num_workers > 1
    if config.objective in ("cached", "contrastive"):
        common = {
            "scale": 1 / config.temperature,
            "similarity_fct": _scoring_function(config, colbert_scores, mean_colbert_scores, XTRScores),
            "mini_batch_size": config.mini_batch_size,
            "gather_across_devices": gather,
        }
        if config.objective == "cached":
            return CachedMultiVectorMultipleNegativesRankingLoss(encoder, **common)
        return MultiVectorMultipleNegativesRankingLoss(encoder, **common)
    if config.objective == "distillation":
        scoring = _scoring_function(config, colbert_kd_scores, mean_colbert_kd_scores, XTRKDScores)
        return MultiVectorDistillKLDivLoss(
            encoder,
            similarity_fct=min_max_normalized(scoring) if config.normalize_scores else scoring,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            mini_batch_size=config.mini_batch_size,
        )
    pairwise = mean_colbert_scores_pairwise if config.scoring == "mean-maxsim" else colbert_scores_pairwise
    return MultiVectorMarginMSELoss(encoder, similarity_fct=pairwise, mini_batch_size=config.mini_batch_size)


def _scoring_function(
    config: TrainConfig, maxsim: ScoringFunction, mean_maxsim: ScoringFunction, xtr: Any
) -> ScoringFunction:
    """Select the configured scoring function; on a GPU, the fused MaxSim if its package is installed."""
    if config.scoring == "xtr":
        return xtr(top_k=config.xtr_tokens)
    if config.scoring == "mean-maxsim":
        return mean_maxsim
    fused = _fused_maxsim() if config.on_gpu else None
    return fused[maxsim] if fused else maxsim


def _fused_maxsim() -> dict[ScoringFunction, ScoringFunction] | None:
    """Map sentence-transformers' MaxSim functions to the fused kernels of late-interaction-kernels (extra `gpu`).

    The kernels do not materialise token-pair similarities. `backward="unified"` keeps gradients in float32; the
    package's default rounds some of them to half precision. Returns None if the package is not installed.
    """
    try:
        from late_interaction_kernels import maxsim
    except ImportError:
        return None

    # The kernel selects the layout by the number of axes: it scores [n_docs, tokens, dim] against every query and
    # [n_queries, n_ways, tokens, dim] against each group's own query. The losses pass groups in both cases.
    def score_all_queries(queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        flat, flat_mask = documents.flatten(0, 1), documents_mask.flatten(0, 1)
        return maxsim(queries, flat, queries_mask, flat_mask, backward="unified")  # type: ignore[no-any-return]

    def score_own_query(queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        return maxsim(queries, documents, queries_mask, documents_mask, backward="unified")  # type: ignore[no-any-return]

    return {colbert_scores: score_all_queries, colbert_kd_scores: score_own_query}


def min_max_normalized(scoring: ScoringFunction) -> ScoringFunction:
    """Wrap a scoring function to min-max normalise each query's scores to [0, 1], as PyLate's Distillation does."""

    def normalized(*embeddings: Tensor, **masks: Any) -> Tensor:
        scores_QN = scoring(*embeddings, **masks)
        low_Q1 = scores_QN.min(dim=-1, keepdim=True).values
        spread_Q1 = scores_QN.max(dim=-1, keepdim=True).values - low_Q1
        return (scores_QN - low_Q1) / (spread_Q1 + 1e-8)

    return normalized
