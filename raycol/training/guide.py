"""A guide: a model that scores the batch, too, without gradient, to find false negatives.

Solatorio 2024, "GISTEmbed: Guided In-sample Selection of Training Negatives", arXiv 2402.16829. It tokenizes on its
own: its features stand beside those of the trained encoder, under names of their own.

Shapes: A texts of all workers, T tokens of the longest, D dimensions. A single-vector model has one token per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn

from raycol.errors import InputError
from raycol.evaluation.single_vector import open_single_vector
from raycol.models.discovery import find_checkpoint, is_late_interaction
from raycol.models.encoder import load_encoder, probe_encoder
from raycol.models.tokenization import Task, tokenize
from raycol.training.encoding import Features, encode, padded
from raycol.training.group import gather_texts
from raycol.training.mini_batches import MiniBatchSize
from raycol.training.scoring import scores_of_all

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Begins the names of its features; `Trainer` takes others for texts to encode.
_PREFIX = "guide."


@dataclass(frozen=True)
class GuideTokens:
    """The guide's embeddings of texts, and which of them are real."""

    tokens_ATD: Tensor
    mask_AT: Tensor

    def __getitem__(self, rows: Tensor) -> GuideTokens:
        return GuideTokens(self.tokens_ATD[rows], self.mask_AT[rows])

    def scores(self, documents: GuideTokens) -> Tensor:
        """Return the scores of documents for each of these queries: MaxSim, or the cosine of single vectors."""
        return scores_of_all(self.tokens_ATD, documents.tokens_ATD[:, None], self.mask_AT, documents.mask_AT[:, None])


class Guide:
    """Tokenizes and embeds texts. It is no module, so that it is neither trained nor saved.

    Args:
        encoder: a ColBERT, or a single-vector model.
    """

    def __init__(self, encoder: MultiVectorEncoder | SentenceTransformer) -> None:
        self._encoder = encoder.eval()
        self._model = encoder if isinstance(encoder, MultiVectorEncoder) else _SingleVector(encoder)

    @property
    def n_weights(self) -> int:
        """Number of its weights."""
        return sum(one.numel() for one in self._encoder.parameters())

    def tokenize(self, texts: Sequence[str], task: Task) -> Features:
        """Return the features of texts, to stand beside the trained encoder's."""
        return {f"{_PREFIX}{name}": value for name, value in tokenize(self._encoder, texts, task).items()}

    def embed(self, features: Features, task: Task, size: MiniBatchSize, *, gather: bool) -> GuideTokens:
        """Embed texts in mini-batches; gather those of all workers if `gather`. Removes its features from others."""
        own = {name.removeprefix(_PREFIX): features.pop(name) for name in [*features] if name.startswith(_PREFIX)}
        tokens_ND, encoded = encode(self._model, own, task, size, kept_tokens=0)
        lengths_A = encoded.lengths_B
        if gather:
            ids_B = torch.zeros(len(lengths_A), dtype=torch.int64, device=tokens_ND.device)
            tokens_ND, texts = gather_texts(tokens_ND, lengths_A, ids_B)
            lengths_A = texts.lengths_A
        return GuideTokens(*padded(tokens_ND, lengths_A))


class _SingleVector(nn.Module):
    """A single-vector model as one of token embeddings: each text's only token is its vector, normalized."""

    def __init__(self, encoder: SentenceTransformer) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, features: Features, task: Task) -> Features:
        vectors_BD = self._encoder(features, task=task)["sentence_embedding"]
        normalized_B1D = torch.nn.functional.normalize(vectors_BD, dim=-1)[:, None]
        return {"token_embeddings": normalized_B1D, "attention_mask": normalized_B1D.new_ones(len(vectors_BD), 1)}


def open_guide(name: str, device: str | None) -> Guide:
    """Open a guide: a ColBERT, or a single-vector model of sentence-transformers.

    Raises:
        InputError: the model cannot be opened, or does not take token ids with an attention mask.
    """
    source = find_checkpoint(name)
    if is_late_interaction(source):
        encoder = load_encoder(name, device=device)
        probe_encoder(encoder, name)
        return Guide(encoder)
    guide = Guide(open_single_vector(name, device))
    if f"{_PREFIX}attention_mask" not in guide.tokenize(["a text"], "query"):
        raise InputError(f"guide {name!r}: takes no tokens with an attention mask; pass a transformer")
    return guide
