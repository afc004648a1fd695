"""The protocol of losses of one's own: `raycol.train(objective=...)` takes one in place of a name.

Shapes: Q queries, S tokens of the longest query, T tokens of the longest document, G groups of W documents, D
dimensions. The documents of a group are one example's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossBatch:
    """What a loss is computed from. Gradients flow to the embeddings, also to those of other workers.

    Args:
        queries_QSD, queries_mask_QS: token embeddings of some of the worker's queries, and which of them count.
        documents_GWTD, documents_mask_GWT: token embeddings of documents: of all examples of the batch, over all
            workers; with teacher scores, of these queries' own examples only, and G is Q, unless the scoring is XTR,
            which depends on all documents.
        positives_Q: position of each query's first document among all G * W documents. It is the positive, unless
            there are teacher scores.
        teacher_QW: teacher scores of each query's own documents; None without.
        scoring: the scoring function that the configuration names.
        mask: sets the scores of false negatives to -inf; None for no mask.
        temperature: the configured one; a tensor with a gradient if it is trained.
    """

    queries_QSD: Tensor
    queries_mask_QS: Tensor
    documents_GWTD: Tensor
    documents_mask_GWT: Tensor
    positives_Q: Tensor
    teacher_QW: Tensor | None
    scoring: Callable[..., Tensor]
    mask: Callable[[Tensor], Tensor] | None = None
    temperature: Tensor | float = 1.0

    def scores(self) -> Tensor:
        """Return the scores of all documents for each query, [Q, G * W], of false negatives -inf.

        With teacher scores, return those of each query's own documents, [Q, W].
        """
        all_QN = self._scores()
        return self._masked(all_QN) if self.teacher_QW is None else self._own(all_QN)

    def all_and_own_scores(self) -> tuple[Tensor, Tensor]:
        """Return the scores of all documents, of false negatives -inf, and those of each query's own documents."""
        all_QN = self._scores()
        return self._masked(all_QN), self._own(all_QN)

    def cut(self, size: int) -> LossBatch:
        """Return the batch with the embeddings' first `size` dimensions, normalized."""
        queries_QSD, documents_GWTD = (
            one[..., :size] / one[..., :size].norm(dim=-1, keepdim=True).clamp(min=1e-12)
            for one in (self.queries_QSD, self.documents_GWTD)
        )
        return replace(self, queries_QSD=queries_QSD, documents_GWTD=documents_GWTD)

    def _scores(self) -> Tensor:
        return self.scoring(
            self.queries_QSD,
            self.documents_GWTD,
            queries_mask=self.queries_mask_QS,
            documents_mask=self.documents_mask_GWT,
        )

    def _masked(self, scores_QN: Tensor) -> Tensor:
        return self.mask(scores_QN) if self.mask else scores_QN

    def _own(self, scores_QN: Tensor) -> Tensor:
        n_ways = self.documents_GWTD.shape[1]
        if scores_QN.shape[1] == n_ways:
            return scores_QN
        own_Q1W = (self.positives_Q // n_ways)[:, None, None].expand(-1, 1, n_ways)
        return scores_QN.unflatten(1, (-1, n_ways)).gather(1, own_Q1W)[:, 0]

    def teacher_scores(self) -> Tensor:
        """Return `teacher_QW`. Raises `ValueError` without teacher scores."""
        if self.teacher_QW is None:
            raise ValueError("there are no teacher scores; a loss that uses them has needs_scores = True")
        return self.teacher_QW


@runtime_checkable
class Loss(Protocol):
    """A training objective without weights of its own. Ray sends it to the workers, so it must be picklable."""

    @property
    def fingerprint(self) -> str:
        """Name and settings of the loss, for the model card; a training is not resumed with another one."""

    @property
    def needs_scores(self) -> bool:
        """Whether examples need teacher scores; otherwise their first document is the positive."""

    def __call__(self, batch: LossBatch, /) -> Tensor:
        """Return the mean loss of the batch's queries, a scalar.

        It is called for `mini_batch_size` queries at a time, on each worker, and the results are averaged. So a
        query's loss must not depend on the other queries.
        """
