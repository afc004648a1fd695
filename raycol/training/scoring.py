"""The scoring functions of training: sentence-transformers', or fused kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable

from sentence_transformers.multi_vector_encoder.scoring import (
    XTRScores,
    colbert_kd_scores,
    colbert_scores,
    mean_colbert_kd_scores,
    mean_colbert_scores,
)
from torch import Tensor

from raycol.training.config import TrainConfig

# (queries [Q, S, D], documents [G, W, T, D], queries_mask=, documents_mask=) -> scores.
ScoringFunction = Callable[..., Tensor]


def scoring_of_all(config: TrainConfig) -> ScoringFunction:
    """The configured scores of all documents for each query, [Q, G * W]."""
    if config.scoring == "xtr":
        return XTRScores(top_k=config.xtr_tokens)  # type: ignore[no-any-return]
    return _choose(config, colbert_scores, mean_colbert_scores)


def scoring_of_own(config: TrainConfig) -> ScoringFunction:
    """The configured scores of each query's own group of documents, [Q, W]; Q is G. Not for XTR."""
    return _choose(config, colbert_kd_scores, mean_colbert_kd_scores)


def _choose(config: TrainConfig, maxsim: ScoringFunction, mean_maxsim: ScoringFunction) -> ScoringFunction:
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
