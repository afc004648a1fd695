"""The training objectives: sentence-transformers' losses with the configured scoring function, or a `Loss`.

A loss averages over a worker's queries and DistributedDataParallel averages over workers. The batch plan gives every
worker the same number of queries, so the result is the average over the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
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
from sentence_transformers.util import (
    all_gather_padded,
    cat_padded_token_embeddings,
    get_rank,
    stack_padded_token_embeddings,
)
from torch import Tensor, nn

from raycol.training.config import TrainConfig
from raycol.training.loss import Loss, LossBatch

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
    if not isinstance(config.objective, str):
        if config.distils:
            scoring = _scoring_function(config, colbert_kd_scores, mean_colbert_kd_scores, XTRKDScores)
        else:
            scoring = _scoring_function(config, colbert_scores, mean_colbert_scores, XTRScores)
        return CachedLoss(
            encoder,
            config.objective,
            similarity_fct=scoring,
            mini_batch_size=config.mini_batch_size,
            gather_across_devices=gather and not config.distils,
        )
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


class CachedLoss(CachedMultiVectorMultipleNegativesRankingLoss):
    """A `Loss` with GradCache, over the gathered documents of all workers.

    Args:
        encoder: the encoder.
        loss: the loss.
        settings: of the base class; its cross-entropy and `scale` are not used.
    """

    def __init__(self, encoder: MultiVectorEncoder, loss: Loss, **settings: Any) -> None:
        super().__init__(encoder, **settings)
        self._loss = loss
        self._teacher_QW: Tensor | None = None

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a worker's examples; `labels` are teacher scores, if the loss needs them."""
        self._teacher_QW = labels if self._loss.needs_scores else None
        return super().forward(sentence_features, labels)  # type: ignore[no-any-return]

    def calculate_loss(
        self, reps: list[list[Tensor]], masks_chunks: list[list[Tensor]], *, with_backward: bool = False
    ) -> Tensor:
        """Return the loss of embeddings in mini-batches, by column: queries, first documents, second documents, ..."""
        queries, *columns = map(cat_padded_token_embeddings, reps, masks_chunks)
        queries_QSD, mask_QS = queries
        n_queries = len(queries_QSD)
        if self.gather_across_devices:
            columns = [all_gather_padded(*column, with_grad=True) for column in columns]
        documents_GWTD, mask_GWT = stack_padded_token_embeddings(*map(list, zip(*columns, strict=True)))
        first = get_rank() * n_queries if self.gather_across_devices else 0
        positives_Q = (first + torch.arange(n_queries, device=queries_QSD.device)) * len(columns)
        losses = []
        for begin in range(0, n_queries, self.score_mini_batch_size):
            part = slice(begin, begin + self.score_mini_batch_size)
            teacher_QW = None if self._teacher_QW is None else self._teacher_QW[part]
            documents = slice(None) if teacher_QW is None else part
            batch = LossBatch(
                queries_QSD[part],
                mask_QS[part],
                documents_GWTD[documents],
                mask_GWT[documents],
                positives_Q[part] if teacher_QW is None else None,
                teacher_QW,
                self.similarity_fct,
            )
            loss = self._loss(batch) * (len(batch.queries_QSD) / n_queries)
            if with_backward:
                loss.backward()
                loss = loss.detach()
            losses.append(loss)
        return torch.stack(losses).sum()


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
