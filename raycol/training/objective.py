"""The training objectives: the losses that a configuration names, and what computes their gradient.

Q queries with W documents each, N documents of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import check_teacher_targets
from torch import Tensor
from torch.nn import functional

from raycol.training.config import TrainConfig
from raycol.training.gradcache import GradCache
from raycol.training.loss import Loss, LossBatch
from raycol.training.scoring import scoring_of_all, scoring_of_own


def make_loss(encoder: MultiVectorEncoder, config: TrainConfig) -> GradCache:
    """Return the configured loss over an encoder."""
    loss = _loss_of(config)
    # XTR retrieves each query token's matches among the tokens of all documents.
    own_documents = loss.needs_scores and config.scoring != "xtr"
    return GradCache(
        encoder,
        loss,
        scoring_of_own(config) if own_documents else scoring_of_all(config),
        own_documents=own_documents,
        gather=config.gather_across_workers and config.num_workers > 1 and not own_documents,
        mini_batch_size=config.mini_batch_size,
        score_mini_batch_size=config.score_mini_batch_size or config.mini_batch_size,
        masks_positives=config.mask_false_negatives and not loss.needs_scores,
        mask_margin=config.mask_margin,
        keep_activations=not config.encodes_twice,
    )


def _loss_of(config: TrainConfig) -> Loss:
    if not isinstance(config.objective, str):
        return config.objective
    if config.objective == "distillation":
        teacher_temperature = config.teacher_temperature or config.temperature
        return Distillation(config.temperature, teacher_temperature, config.normalize_scores)
    return MarginMSE() if config.objective == "margin-mse" else Contrastive(config.temperature)


@dataclass(frozen=True)
class Contrastive:
    """Cross-entropy of the positive among all passages (DPR: Karpukhin et al. 2020, arXiv 2004.04906).

    Args:
        temperature: of the softmax; scores are divided by it.
    """

    temperature: float = 1.0
    fingerprint: str = "contrastive"
    needs_scores: bool = False

    def __call__(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        return functional.cross_entropy(batch.scores() / self.temperature, batch.positives_Q)


@dataclass
class Distillation:
    """KL divergence of the student's softmax over a query's documents from the teacher's (ColBERTv2).

    It is multiplied by the squared temperature, so that gradients do not shrink with it (Hinton et al. 2015, arXiv
    1503.02531).

    Args:
        temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax.
        normalize: min-max normalize the student's scores first, as PyLate does.
    """

    temperature: float = 1.0
    teacher_temperature: float = 1.0
    normalize: bool = False
    fingerprint: str = "distillation"
    needs_scores: bool = True
    _checked: bool = field(default=False, init=False, repr=False, compare=False)

    def __call__(self, batch: LossBatch) -> Tensor:
        """See `Loss`. Warns if the first batch's teacher scores are too far apart for the temperature."""
        student_QW = min_max_normalized(batch.scores()) if self.normalize else batch.scores()
        student_QW = functional.log_softmax(student_QW / self.temperature, dim=-1)
        teacher_QW = functional.log_softmax(batch.teacher_scores() / self.teacher_temperature, dim=-1)
        if not self._checked:
            self._checked = True
            name = self.fingerprint
            check_teacher_targets(teacher_QW.exp(), batch.teacher_scores(), self.teacher_temperature, name)
        divergence = functional.kl_div(student_QW, teacher_QW, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


@dataclass(frozen=True)
class MarginMSE:
    """Mean squared error of the margins of the first document over the others.

    Hofstätter et al. 2020, arXiv 2010.02666.
    """

    fingerprint: str = "margin-mse"
    needs_scores: bool = True

    def __call__(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        student_QW, teacher_QW = batch.scores(), batch.teacher_scores()
        return functional.mse_loss(student_QW[:, :1] - student_QW[:, 1:], teacher_QW[:, :1] - teacher_QW[:, 1:])


def min_max_normalized(scores_QW: Tensor) -> Tensor:
    """Map each query's scores to [0, 1], as PyLate's Distillation does."""
    low_Q1 = scores_QW.min(dim=-1, keepdim=True).values
    return (scores_QW - low_Q1) / (scores_QW.max(dim=-1, keepdim=True).values - low_Q1 + 1e-8)
