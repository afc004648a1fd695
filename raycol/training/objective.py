"""The training objectives: the losses that a configuration names, and what computes their gradient.

Shapes: Q queries with W documents each, N documents of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import check_teacher_targets
from torch import Tensor
from torch.nn import functional

from raycol.training.config import TrainConfig
from raycol.training.gradcache import GradCache
from raycol.training.guide import Guide, open_guide
from raycol.training.loss import Loss, LossBatch
from raycol.training.mini_batches import MiniBatchSize
from raycol.training.scoring import scoring_of_all, scoring_of_own

# Weight of NDCG-Loss2 beside LambdaRank's in NDCG-Loss2++.
_LAMBDA_MU = 10.0


def make_loss(encoder: MultiVectorEncoder, config: TrainConfig) -> GradCache:
    """Return the loss over an encoder that a configuration of one source names.

    Raises:
        InputError: the guide cannot be opened.
    """
    return _make_loss(encoder, config, _open_guide(config))


def make_losses(encoder: MultiVectorEncoder, config: TrainConfig) -> list[GradCache]:
    """Return the loss of each source; those of the same objective and temperature are the same object.

    Raises:
        InputError: the guide cannot be opened.
    """
    guide = _open_guide(config)
    made: dict[tuple[str, float], GradCache] = {}
    for one in config.by_source:
        key = (one.objective_name, one.temperature)
        if key not in made:
            made[key] = _make_loss(encoder, one, guide)
    return [made[one.objective_name, one.temperature] for one in config.by_source]


def _open_guide(config: TrainConfig) -> Guide | None:
    return open_guide(config.guide, None if config.on_gpu else "cpu") if config.guide else None


def _make_loss(encoder: MultiVectorEncoder, config: TrainConfig, guide: Guide | None) -> GradCache:
    guide, mask_margin = (guide, config.mask_margin) if config.in_batch else (None, None)
    # XTR retrieves each query token's matches among the tokens of all documents.
    own_documents = not config.in_batch and config.scoring != "xtr"
    return GradCache(
        encoder,
        _loss_of(config),
        scoring_of_own(config) if own_documents else scoring_of_all(config),
        own_documents=own_documents,
        gather=config.gather_across_workers and config.num_workers > 1 and not own_documents,
        mini_batch_size=MiniBatchSize(config.mini_batch_size, config.mini_batch_tokens),
        score_mini_batch_size=config.score_mini_batch_size or config.mini_batch_size,
        masks_positives=config.mask_false_negatives and config.in_batch,
        mask_margin=0.0 if guide and mask_margin is None else mask_margin,
        guide=guide,
        symmetric=config.symmetric and config.is_contrastive,
        sizes=config.matryoshka,
        pool_factor=config.pool_factor,
        temperature=config.temperature,
        learns_temperature=config.temperature_learning_rate is not None,
        kept_tokens=config.activation_tokens if config.encodes_twice else math.inf,
    )


def _loss_of(config: TrainConfig) -> Loss:
    if not isinstance(config.objective, str):
        return config.objective
    if config.objective in ("cached", "contrastive"):
        return Contrastive()
    loss: DistillationLoss
    if config.objective == "distillation":
        teacher_temperature = config.teacher_temperature or config.temperature
        loss = Divergence(config.temperature, teacher_temperature, config.normalize_scores)
    else:
        loss = MarginMSE() if config.objective == "margin-mse" else LambdaLoss(config.temperature)
    return Distillation(config.objective, loss, config.contrastive_weight, config.temperature)


@dataclass(frozen=True)
class Contrastive:
    """Cross-entropy of the positive among all passages (DPR: Karpukhin et al. 2020, arXiv 2004.04906).

    Scores are divided by the temperature, which may be trained (CLIP: Radford et al. 2021, arXiv 2103.00020).
    """

    fingerprint: str = "contrastive"
    needs_scores: bool = False

    def __call__(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        scores_QN = batch.scores()
        left_out_QN = scores_QN == -torch.inf  # the temperature would get -inf times a gradient of 0, which is NaN
        logits_QN = (scores_QN.masked_fill(left_out_QN, 0) / batch.temperature).masked_fill(left_out_QN, -torch.inf)
        return functional.cross_entropy(logits_QN, batch.positives_Q)


class DistillationLoss(Protocol):
    """Compares scores of the student with those of the teacher."""

    def __call__(self, student_QW: Tensor, teacher_QW: Tensor, /) -> Tensor:
        """Return the mean loss of some queries, from the scores of their own documents."""


@dataclass(frozen=True)
class Distillation:
    """A loss from the teacher's scores of each query's own documents, plus `weight` times a contrastive one.

    In the contrastive part the document that the teacher scores highest is the positive, and the other queries'
    documents are the negatives (ColBERTv2: Santhanam et al. 2022, arXiv 2112.01488).

    Args:
        fingerprint: name of the objective.
        loss: of a query's own documents.
        weight: of the contrastive part.
        temperature: of its softmax.
    """

    fingerprint: str
    loss: DistillationLoss
    weight: float = 0.0
    temperature: float = 1.0
    needs_scores: bool = True

    def __call__(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        teacher_QW = batch.teacher_scores()
        if not self.weight:
            return self.loss(batch.scores(), teacher_QW)
        all_QN, own_QW = batch.all_and_own_scores()
        n_ways = teacher_QW.shape[1]
        best_Q = teacher_QW.argmax(dim=1)
        others_QW = torch.arange(n_ways, device=best_Q.device)[None] != best_Q[:, None]
        own_positions_QW = batch.positives_Q[:, None] + torch.arange(n_ways, device=best_Q.device)
        logits_QN = all_QN.scatter(1, own_positions_QW, own_QW.masked_fill(others_QW, -torch.inf)) / self.temperature
        contrastive = functional.cross_entropy(logits_QN, batch.positives_Q + best_Q)
        return self.loss(own_QW, teacher_QW) + self.weight * contrastive


@dataclass
class Divergence:
    """KL divergence of the student's softmax over a query's documents from the teacher's.

    Santhanam et al. 2022 (ColBERTv2), arXiv 2112.01488. Up to a constant it is the cross-entropy of ListNet (Cao et
    al. 2007, doi 10.1145/1273496.1273513). It is multiplied by the squared temperature, so that gradients do not
    shrink with it (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax.
        normalize: min-max maps the student's scores of each query to [0, 1] first, as PyLate does; z-score
            standardizes the student's and the teacher's (Sun et al. 2024, arXiv 2403.01683).
    """

    temperature: float = 1.0
    teacher_temperature: float = 1.0
    normalize: str | None = None
    _checked: bool = field(default=False, init=False, repr=False, compare=False)

    def __call__(self, student_QW: Tensor, teacher_QW: Tensor) -> Tensor:
        """See `DistillationLoss`. Warns if the first teacher scores are too far apart for the temperature."""
        if self.normalize == "min-max":
            student_QW = min_max_normalized(student_QW)
        elif self.normalize == "z-score":
            student_QW, teacher_QW = standardized(student_QW), standardized(teacher_QW)
        student_log_QW = functional.log_softmax(student_QW / self.temperature, dim=-1)
        teacher_log_QW = functional.log_softmax(teacher_QW / self.teacher_temperature, dim=-1)
        if not self._checked:
            self._checked = True
            check_teacher_targets(teacher_log_QW.exp(), teacher_QW, self.teacher_temperature, "distillation")
        divergence = functional.kl_div(student_log_QW, teacher_log_QW, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


@dataclass(frozen=True)
class MarginMSE:
    """Mean squared error of the margins of the first document over the others.

    Hofstätter et al. 2020, arXiv 2010.02666.
    """

    def __call__(self, student_QW: Tensor, teacher_QW: Tensor) -> Tensor:
        """See `DistillationLoss`."""
        return functional.mse_loss(student_QW[:, :1] - student_QW[:, 1:], teacher_QW[:, :1] - teacher_QW[:, 1:])


@dataclass(frozen=True)
class LambdaLoss:
    """NDCG-Loss2++: a logistic loss of each pair in the teacher's order, weighted by what swapping it costs in nDCG.

    Wang et al. 2018, "The LambdaLoss framework for ranking metric optimization" (doi 10.1145/3269206.3271784). Gains
    are 2^y - 1; y is the teacher's score, mapped to [0, 1] within the query.

    Args:
        temperature: score differences are divided by it.
    """

    temperature: float = 1.0

    def __call__(self, student_QW: Tensor, teacher_QW: Tensor) -> Tensor:
        """See `DistillationLoss`."""
        relevance_QW = min_max_normalized(teacher_QW)
        discounts_W = torch.log2(
            torch.arange(2, teacher_QW.shape[1] + 2, device=teacher_QW.device).to(teacher_QW.dtype)
        )
        gains_QW = torch.exp2(relevance_QW) - 1
        ideal_Q1 = (gains_QW.sort(dim=1, descending=True).values / discounts_W).sum(dim=1, keepdim=True)
        gains_QW = gains_QW / ideal_Q1.clamp(min=1e-8)
        rank_QW = student_QW.detach().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        weights_QWW = _pairs(gains_QW).abs() * (
            _pairs(1 / discounts_W[rank_QW]).abs() + _LAMBDA_MU * _swap_discounts(_pairs(rank_QW).abs(), discounts_W)
        )
        losses_QWW = functional.softplus(-_pairs(student_QW) / self.temperature) / torch.log(
            student_QW.new_tensor(2.0)
        )
        ordered_QWW = _pairs(relevance_QW) > 0
        return (weights_QWW * losses_QWW * ordered_QWW).sum(dim=(1, 2)).mean()


def _pairs(values_QW: Tensor) -> Tensor:
    """Differences of all pairs, [Q, W, W]."""
    return values_QW[:, :, None] - values_QW[:, None, :]


def _swap_discounts(distance_QWW: Tensor, discounts_W: Tensor) -> Tensor:
    """|1/D(d) - 1/D(d + 1)| of two documents `d` ranks apart; 0 for a document and itself."""
    inverse_W = 1 / discounts_W
    steps_W = torch.cat([inverse_W.new_zeros(1), (inverse_W[:-1] - inverse_W[1:])])
    return steps_W[distance_QWW]


def min_max_normalized(scores_QW: Tensor) -> Tensor:
    """Map each query's scores to [0, 1], as PyLate's Distillation does."""
    low_Q1 = scores_QW.min(dim=-1, keepdim=True).values
    return (scores_QW - low_Q1) / (scores_QW.max(dim=-1, keepdim=True).values - low_Q1 + 1e-8)


def standardized(scores_QW: Tensor) -> Tensor:
    """Subtract each query's mean score and divide by the standard deviation."""
    centred_QW = scores_QW - scores_QW.mean(dim=-1, keepdim=True)
    # Not added to the root: its gradient at 0 is infinite.
    return centred_QW / (centred_QW.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
