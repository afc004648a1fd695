"""Turns the examples of a batch into the encoder's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder import MultiVectorEncoderDataCollator

from raycol.models.tokenization import Task, tokenize
from raycol.training.guide import Guide
from raycol.training.positives import collate_ids, is_ids


def make_collator(encoder: MultiVectorEncoder, guide: Guide | None = None) -> MultiVectorEncoderDataCollator:
    """Return a collator that tokenizes as encoding does, and also for a guide, if there is one.

    sentence-transformers' own leaves out the prompts.
    """
    return _Collator(preprocess_fn=partial(_tokenize, encoder, guide))


@dataclass
class _Collator(MultiVectorEncoderDataCollator):
    """Tokenizes the texts of a batch; ids of texts become features of their columns."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [{name: value for name, value in row.items() if not is_ids(name)} for row in features]
        ids = {name: collate_ids([row[name] for row in features]) for name in features[0] if is_ids(name)}
        return {**super().__call__(texts), **ids}


def _tokenize(
    encoder: MultiVectorEncoder, guide: Guide | None, texts: list[str], prompt: str | None, task: Task
) -> dict[str, Any]:
    """See `tokenize`. `prompt` comes from the Trainer's arguments, which set none."""
    return {**tokenize(encoder, texts, task), **(guide.tokenize(texts, task) if guide else {})}
