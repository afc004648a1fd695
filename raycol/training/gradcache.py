"""A loss over the passages of all workers, and its gradient, in mini-batches.

    1. encode the batch's texts in mini-batches (`encoding.py`)
    2. gather the token embeddings of all workers' passages
    3. score some queries at a time; back-propagate the loss to the embeddings
    4. return each worker the gradient of its passages; back-propagate it to the weights, mini-batch by mini-batch

In step 3, documents that are known positives of a query are no negatives of it: they score -inf.

GradCache (Gao et al. 2021, arXiv 2101.06983) keeps no activations in step 1 and encodes again in step 4. A step takes
three collective operations of its own, whatever the number of mini-batches: lengths, embeddings, and their gradient.

A loss averages over a worker's queries and DistributedDataParallel averages over workers. The batch plan gives every
worker the same number of queries, so the result is the average over the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raycol.training.encoding import Encoded, Features, backward, encode, joined, padded
from raycol.training.group import GatheredTexts, gather_texts
from raycol.training.loss import Loss, LossBatch
from raycol.training.positives import positives_among
from raycol.training.scoring import ScoringFunction

# Further features of a column: of documents the id of each text [B]; of queries the ids of each one's known positives,
# padded with -1 [B, P].
TEXT_IDS, POSITIVE_IDS = "text_ids", "positive_ids"


class GradCache(nn.Module):
    """Computes a loss and its gradient.

    Its attribute `masked_pairs` is the number of pairs of a query and a document that the last batch left out.

    Args:
        model: the encoder; the Trainer replaces it by the one wrapped for distributed training.
        loss: the loss.
        scoring: scores documents, for `LossBatch.scores`.
        own_documents: compare each query with its own documents only.
        gather: use the documents of all workers.
        mini_batch_size: texts encoded at a time.
        score_mini_batch_size: queries scored at a time.
        masks_positives: leave known positives out of a query's negatives; the features must have ids of texts.
        mask_margin: leave out documents, too, that score higher than the positive by more than it.
        keep_activations: encode each text once only and keep its activations, for small batches.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        scoring: ScoringFunction,
        *,
        own_documents: bool,
        gather: bool,
        mini_batch_size: int,
        score_mini_batch_size: int,
        masks_positives: bool,
        mask_margin: float | None,
        keep_activations: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._scoring = loss, scoring
        self._own_documents, self._gather = own_documents, gather
        self._mini_batch_size, self._score_mini_batch_size = mini_batch_size, score_mini_batch_size
        self.masks_positives, self._mask_margin = masks_positives, mask_margin
        self._keep_activations = keep_activations
        self.masked_pairs = torch.zeros(())

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the mean loss of a worker's queries, whose backward pass is steps 1 and 4.

        Args:
            sentence_features: queries, first documents, second documents, ...
            labels: teacher scores [Q, W], if the loss needs them.
        """
        query_features, *columns = map(dict, sentence_features)
        document_features = joined(columns)
        positive_ids_QP, ids_B = query_features.pop(POSITIVE_IDS, None), document_features.pop(TEXT_IDS, None)
        settings = {"size": self._mini_batch_size, "keep_activations": self._keep_activations}
        queries = encode(self.model, query_features, "query", **settings)
        documents = encode(self.model, document_features, "document", **settings)
        if ids_B is None:
            ids_B = torch.zeros(len(documents.lengths_B), dtype=torch.int64, device=documents.tokens_ND.device)
        if self._gather:
            texts = gather_texts(documents.tokens_ND, documents.lengths_B, ids_B)
        else:
            texts = GatheredTexts(documents.tokens_ND, documents.lengths_B, ids_B, (len(documents.tokens_ND),))
        teacher_QW = labels if self._loss.needs_scores else None
        loss, gradients = self._loss_and_gradients(queries, texts, len(columns), teacher_QW, positive_ids_QP)
        loss.requires_grad_()
        loss.register_hook(partial(self._backward, list(zip((queries, documents), gradients, strict=True))))
        return loss

    def _backward(self, parts: list[tuple[Encoded, Tensor]], scale: Tensor) -> None:
        """Back-propagate the gradients of tokens, multiplied by the gradient of the loss."""
        backward(self.model, [(encoded, gradient_ND * scale) for encoded, gradient_ND in parts])

    def _loss_and_gradients(
        self, queries: Encoded, texts: GatheredTexts, n_ways: int, teacher_QW: Tensor | None, positive_ids_QP: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the mean loss, and its gradients with respect to the queries' and the documents' tokens."""
        queries_QSD, queries_mask_QS = _leaf(queries.tokens_ND, queries.lengths_B)
        documents_ATD, documents_mask_AT = _leaf(texts.tokens_ND, texts.lengths_A)
        documents_GWTD, documents_mask_GWT = (
            one.unflatten(0, (-1, n_ways)) for one in (documents_ATD, documents_mask_AT)
        )
        dtype, n_queries = queries.tokens_ND.dtype, len(queries_QSD)
        own_Q = (texts.first(n_queries) + torch.arange(n_queries, device=queries_QSD.device)) * n_ways
        loss = queries_QSD.new_zeros(())
        self.masked_pairs = queries_QSD.new_zeros(())
        for begin in range(0, n_queries, self._score_mini_batch_size):
            part = slice(begin, min(begin + self._score_mini_batch_size, n_queries))
            groups = part if self._own_documents else slice(None)
            mask = _Mask(None, own_Q[part], self._mask_margin)
            if positive_ids_QP is not None:
                mask.known_QN = positives_among(positive_ids_QP[part], texts.ids_A, own_Q[part])
            batch = LossBatch(
                queries_QSD[part].to(dtype),
                queries_mask_QS[part],
                documents_GWTD[groups].to(dtype),
                documents_mask_GWT[groups],
                own_Q[part] - (begin * n_ways if self._own_documents else 0),
                None if teacher_QW is None else teacher_QW[part],
                partial(mask.scores, self._scoring),
            )
            part_loss = self._loss(batch) * (len(batch.queries_QSD) / n_queries)
            part_loss.backward()
            loss += part_loss.detach()
            self.masked_pairs += mask.n_pairs
        return loss, (
            _gradient(queries_QSD, queries_mask_QS),
            texts.sum_of_own(_gradient(documents_ATD, documents_mask_AT)),
        )


@dataclass
class _Mask:
    """Leaves documents out of some queries' negatives: their scores become -inf.

    Args:
        known_QN: known positives of the queries, without their own.
        own_Q: position of each query's own positive.
        margin: leave out documents, too, that score higher than the own positive by more than it.
        n_pairs: number of pairs left out.
    """

    known_QN: Tensor | None
    own_Q: Tensor
    margin: float | None
    n_pairs: Tensor | int = 0

    def scores(self, scoring: ScoringFunction, *embeddings: Tensor, **masks: Tensor) -> Tensor:
        """Score documents, and apply the mask."""
        scores_QN = scoring(*embeddings, **masks)
        left_out_QN = self.known_QN
        if self.margin is not None:
            fixed_QN = scores_QN.detach()
            high_QN = fixed_QN > fixed_QN.gather(1, self.own_Q[:, None]) + self.margin
            left_out_QN = high_QN if left_out_QN is None else left_out_QN | high_QN
        if left_out_QN is None:
            return scores_QN
        self.n_pairs = left_out_QN.sum()
        return scores_QN.masked_fill(left_out_QN, -torch.inf)


def _leaf(tokens_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Padded tokens that collect a gradient in float32 or more, and their mask."""
    tokens_BTD, mask_BT = padded(tokens_ND.to(torch.promote_types(tokens_ND.dtype, torch.float32)), lengths_B)
    return tokens_BTD.requires_grad_(), mask_BT


def _gradient(tokens_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The gradient of tokens, without padding [N, D]; 0 if the loss does not depend on them."""
    return (torch.zeros_like(tokens_BTD) if tokens_BTD.grad is None else tokens_BTD.grad)[mask_BT]
