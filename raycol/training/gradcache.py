"""A loss over the passages of all workers, and its gradient, in mini-batches.

    1. encode the batch's texts in mini-batches (`encoding.py`), and pool the documents' tokens (`pooling.py`)
    2. gather the token embeddings of all workers' passages
    3. score some queries at a time; back-propagate the loss to the embeddings
    4. return each worker the gradient of its passages; back-propagate it to the weights, mini-batch by mini-batch

GradCache (Gao et al. 2021, arXiv 2101.06983) keeps no activations in step 1 and encodes again in step 4. A step takes
three collective operations of its own, whatever the number of mini-batches: lengths, embeddings, and their gradient; a
symmetric loss, which gathers the queries too, takes six; a trained temperature adds one.

A loss averages over a worker's queries and DistributedDataParallel averages over workers. The batch plan gives every
worker the same number of queries, so the result is the average over the whole batch.

Shapes: Q queries of a part, W documents each, A texts of all workers, T tokens of the longest, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from raycol.models.tokenization import Task
from raycol.training.encoding import Encoded, Features, backward, encode, joined, padded
from raycol.training.group import GatheredTexts, all_gather, gather_texts
from raycol.training.guide import Guide, GuideTokens
from raycol.training.loss import Loss, LossBatch
from raycol.training.mini_batches import MiniBatchSize
from raycol.training.pooling import Pooled, pool
from raycol.training.positives import POSITIVE_IDS, TEXT_IDS, Mask, positives_among
from raycol.training.scoring import ScoringFunction
from raycol.training.setting_types import MIN_TEMPERATURE


class GradCache(nn.Module):
    """Computes a loss and its gradient.

    Its attribute `masked_pairs` is the number of pairs of a query and a document that the last batch left out as false
    negatives, and `temperature` that of its softmax. If the temperature is trained, `log_temperature` is a parameter;
    its gradient is the mean over workers.

    Args:
        model: the encoder; the Trainer replaces it by the one wrapped for distributed training.
        loss: the loss.
        scoring: scores documents, for `LossBatch.scores`.
        own_documents: compare each query with its own documents only.
        gather: use the documents of all workers.
        mini_batch_size: what is encoded at a time.
        score_mini_batch_size: queries scored at a time.
        masks_positives: leave known positives out of a query's negatives; the features have ids of texts.
        mask_margin: leave out documents, too, that score higher than the positive by more than it.
        guide: model whose scores are compared with the margin, in place of the trained model's.
        symmetric: average the loss with that of each positive among all queries.
        sizes: average the loss with those of embeddings cut to these dimensions.
        pool_factor: of the documents' tokens; 1 for no pooling.
        temperature: of the objective's softmax.
        learns_temperature: train it, from this value.
        kept_tokens: tokens of a batch whose activations are kept, so that their texts are encoded once; infinite to
            keep all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        scoring: ScoringFunction,
        *,
        own_documents: bool,
        gather: bool,
        mini_batch_size: MiniBatchSize,
        score_mini_batch_size: int,
        masks_positives: bool,
        mask_margin: float | None,
        guide: Guide | None,
        symmetric: bool,
        sizes: Sequence[int],
        pool_factor: float,
        temperature: float,
        learns_temperature: bool,
        kept_tokens: float,
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._scoring = loss, scoring
        self.own_documents, self.gather, self.symmetric = own_documents, gather, symmetric
        self.mini_batch_size, self.score_mini_batch_size = mini_batch_size, score_mini_batch_size
        self.masks_positives, self._mask_margin = masks_positives, mask_margin
        self.guide = guide
        self._sizes = (None, *sizes)
        self.pool_factor, self.kept_tokens = pool_factor, kept_tokens
        self.temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learns_temperature else None
        self.masked_pairs = torch.zeros(())
        # Tokens, and pairs of a query and a document, since the Trainer last reset them.
        self.n_padding, self.n_encoded, self.n_pairs = 0, 0, 0

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the mean loss of a worker's queries, whose backward pass is the end of step 4.

        Args:
            sentence_features: queries, first documents, second documents, ...
            labels: teacher scores [Q, W], if the loss needs them.
        """
        query_features, *columns = map(dict, sentence_features)
        known = (query_features.pop(POSITIVE_IDS, None), columns[0].pop(POSITIVE_IDS, None))
        queries = self._side(query_features, "query", self.kept_tokens, gather=self.gather and self.symmetric)
        left = self.kept_tokens - queries.encoded.kept_tokens
        documents = self._side(joined(columns), "document", left, gather=self.gather)
        teacher_QW = labels if self._loss.needs_scores else None
        log_temperature = self._clamped_log_temperature()
        loss = torch.zeros((), device=queries.tokens_ATD.device)
        self.masked_pairs = torch.zeros_like(loss)
        for rows_Q in torch.arange(queries.n_own, device=loss.device).split(self.score_mini_batch_size):
            for size in self._sizes:
                # Made anew for each size, because a backward pass frees the graph.
                batches = [self._batch(queries, documents, len(columns), rows_Q, teacher_QW, known[0])]
                if self.symmetric:
                    batches.append(self._reversed_batch(queries, documents, len(columns), rows_Q, known[1]))
                for batch, mask in batches:
                    if log_temperature is not None:
                        batch = replace(batch, temperature=log_temperature.exp())
                    share = len(rows_Q) / queries.n_own / len(batches) / len(self._sizes)
                    part = self._loss(batch if size is None else batch.cut(size)) * share
                    part.backward()
                    loss += part.detach()
                    if size is None:
                        self.masked_pairs += mask.n_pairs
                        self.n_pairs += len(rows_Q) * batch.documents_mask_GWT.shape[:2].numel()
        gradients = [(side.encoded, side.gradient()) for side in (queries, documents)]
        loss.requires_grad_()
        own = None if log_temperature is None else log_temperature.grad
        loss.register_hook(partial(self._backward, gradients, own))
        return loss

    @property
    def masks(self) -> bool:
        """Whether false negatives are left out."""
        return self.masks_positives or self._mask_margin is not None

    def _clamped_log_temperature(self) -> Tensor | None:
        """A leaf of the loss with the trained log-temperature, which is clamped first; None if it is fixed."""
        if self.log_temperature is None:
            return None
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(MIN_TEMPERATURE))
        self.temperature = math.exp(self.log_temperature.item())
        return self.log_temperature.detach().clone().requires_grad_()

    def _backward(self, gradients: list[tuple[Encoded, Tensor]], own: Tensor | None, scale: Tensor) -> None:
        """Back-propagate the gradients of tokens and of the log-temperature, times the gradient of the loss."""
        if self.log_temperature is not None and own is not None:
            mean = torch.stack(all_gather(own)).mean().to(own) * scale
            self.log_temperature.grad = mean if self.log_temperature.grad is None else self.log_temperature.grad + mean
        backward(self.model, [(encoded, gradient_ND * scale) for encoded, gradient_ND in gradients])

    def _side(self, features: Features, task: Task, kept_tokens: float, *, gather: bool) -> _Side:
        """Encode texts, and gather those of all workers if `gather`."""
        ids_B = features.pop(TEXT_IDS, None)
        guided = self.guide.embed(features, task, self.mini_batch_size, gather=gather) if self.guide else None
        tokens_ND, encoded = encode(self.model, features, task, self.mini_batch_size, kept_tokens=kept_tokens)
        n_padding, n = encoded.padding()
        self.n_padding, self.n_encoded = self.n_padding + n_padding, self.n_encoded + n
        dtype, lengths_B = tokens_ND.dtype, encoded.lengths_B
        pooled = None
        if task == "document" and self.pool_factor > 1:
            pooled = pool(tokens_ND, lengths_B.tolist(), self.pool_factor)
            tokens_ND, lengths_B = pooled.pooled_MD.detach().to(dtype), pooled.lengths_B
        if ids_B is None:
            ids_B = torch.zeros(len(lengths_B), dtype=torch.int64, device=tokens_ND.device)
        if gather:
            tokens_ND, texts = gather_texts(tokens_ND, lengths_B, ids_B)
        else:
            texts = GatheredTexts(lengths_B, ids_B, (len(tokens_ND),))
        # A leaf, which collects the gradient in float32 or more.
        tokens_ND = tokens_ND.to(torch.promote_types(dtype, torch.float32))
        tokens_ATD, mask_AT = padded(tokens_ND, texts.lengths_A)
        return _Side(encoded, pooled, texts, tokens_ATD.requires_grad_(), mask_AT, dtype, guided)

    def _batch(
        self,
        queries: _Side,
        documents: _Side,
        n_ways: int,
        rows_Q: Tensor,
        teacher_QW: Tensor | None,
        known_ids_QP: Tensor | None,
    ) -> tuple[LossBatch, Mask]:
        """The worker's queries at `rows_Q`, and all documents or their own ones."""
        own_Q = documents.first + rows_Q * n_ways
        positives_Q = own_Q if teacher_QW is None else own_Q + teacher_QW[rows_Q].argmax(dim=1)
        mask = Mask(positives_Q, self._mask_margin)
        if known_ids_QP is not None:
            mask.known_QN = positives_among(known_ids_QP[rows_Q], documents.texts.ids_A, positives_Q)
        if queries.guided and documents.guided:
            mask.guide_QN = queries.guided[queries.first + rows_Q].scores(documents.guided)
        groups = slice(int(rows_Q[0]), int(rows_Q[-1]) + 1) if self.own_documents else slice(None)
        batch = LossBatch(
            queries.tokens_ATD[queries.first + rows_Q].to(queries.dtype),
            queries.mask_AT[queries.first + rows_Q],
            documents.tokens_ATD.unflatten(0, (-1, n_ways))[groups].to(documents.dtype),
            documents.mask_AT.unflatten(0, (-1, n_ways))[groups],
            torch.arange(len(rows_Q), device=own_Q.device) * n_ways if self.own_documents else own_Q,
            None if teacher_QW is None else teacher_QW[rows_Q],
            self._scoring,
            mask,
            self.temperature,
        )
        return batch, mask

    def _reversed_batch(
        self, queries: _Side, documents: _Side, n_ways: int, rows_Q: Tensor, known_ids_QP: Tensor | None
    ) -> tuple[LossBatch, Mask]:
        """The positives of the worker's queries at `rows_Q`, each scored with all queries, [Q, A]."""
        own_Q, positives_Q = queries.first + rows_Q, documents.first + rows_Q * n_ways
        mask = Mask(own_Q, self._mask_margin)
        if known_ids_QP is not None:
            mask.known_QN = positives_among(known_ids_QP[rows_Q], queries.texts.ids_A, own_Q)
        if queries.guided and documents.guided:
            mask.guide_QN = queries.guided.scores(documents.guided[positives_Q]).T
        batch = LossBatch(
            queries.tokens_ATD.to(queries.dtype),
            queries.mask_AT,
            documents.tokens_ATD[positives_Q][:, None].to(documents.dtype),
            documents.mask_AT[positives_Q][:, None],
            own_Q,
            None,
            partial(_transposed, self._scoring),
            mask,
            self.temperature,
        )
        return batch, mask


@dataclass(frozen=True)
class _Side:
    """The queries, or the documents, of a batch.

    Args:
        encoded: those of this worker.
        pooled: their pooled tokens, which replace them; None if they are not pooled.
        texts: those of all workers, if they are gathered.
        tokens_ATD: the padded tokens of `texts`, a leaf of the loss.
        mask_AT: which of them are real.
        dtype: of the encoder's output, in which scores are computed.
        guided: the guide's embeddings of `texts`.
    """

    encoded: Encoded
    pooled: Pooled | None
    texts: GatheredTexts
    tokens_ATD: Tensor
    mask_AT: Tensor
    dtype: torch.dtype
    guided: GuideTokens | None

    @property
    def n_own(self) -> int:
        """Number of this worker's texts."""
        return len(self.encoded.lengths_B)

    @property
    def first(self) -> int:
        """Position of this worker's first text in `texts`."""
        return self.texts.first(self.n_own)

    def gradient(self) -> Tensor:
        """The sum, over workers, of the gradients of this worker's tokens; 0 if the loss does not depend on them."""
        gradient_ATD = torch.zeros_like(self.tokens_ATD) if self.tokens_ATD.grad is None else self.tokens_ATD.grad
        own = self.texts.sum_of_own(gradient_ATD[self.mask_AT])
        return self.pooled.gradient(own) if self.pooled else own


def _transposed(scoring: ScoringFunction, *embeddings: Tensor, **masks: Tensor) -> Tensor:
    return scoring(*embeddings, **masks).T
