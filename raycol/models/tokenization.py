"""Tokenization for encoders: the same token ids in training, mining, indexing and serving.

sentence-transformers prepends the prompt ("[Q] ", "[D] ") in `encode_query` and `encode_document`, but not in
`preprocess`, which its Trainer calls. All code that tokenizes without encoding uses this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

Task = Literal["query", "document"]

# Prompt names in order of preference, as in `encode_query` and `encode_document`.
_PROMPTS: dict[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_of(encoder: MultiVectorEncoder, task: Task) -> str:
    """The prompt that `encode_query` or `encode_document` prepends to a text; "" if there is none."""
    name = next((name for name in _PROMPTS[task] if name in encoder.prompts), encoder.default_prompt_name)
    return (encoder.prompts.get(name) if name else None) or ""


def tokenize(encoder: MultiVectorEncoder, texts: Sequence[str], task: Task) -> dict[str, Any]:
    """Padded features of texts as in encoding: `input_ids` [n_texts, n_tokens], `attention_mask` and so on.

    Prepends the prompt, truncates to the task's length and expands queries.
    """
    features: dict[str, Any] = encoder.preprocess(list(texts), prompt=prompt_of(encoder, task) or None, task=task)
    return features
