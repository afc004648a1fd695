"""Tokenizing a text for an encoder: the same ids in training, mining, indexing and serving.

sentence-transformers puts a prompt ("[Q] ", "[D] ") before a text in `encode_query` and `encode_document`, but not in
`preprocess`, which its Trainer calls. What tokenizes without encoding goes through this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

Task = Literal["query", "document"]

# Names of prompts, the first that an encoder has counts; as in `encode_query` and `encode_document`.
_PROMPTS: dict[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_of(encoder: MultiVectorEncoder, task: Task) -> str:
    """What `encode_query` or `encode_document` puts before a text; empty if nothing."""
    name = next((name for name in _PROMPTS[task] if name in encoder.prompts), encoder.default_prompt_name)
    return (encoder.prompts.get(name) if name else None) or ""


def tokenize(encoder: MultiVectorEncoder, texts: Sequence[str], task: Task) -> dict[str, Any]:
    """Padded features of texts, `input_ids` [n_texts, n_tokens] among them, as encoding has them.

    The prompt is put before each, queries are expanded, and all are cut to the task's length.
    """
    features: dict[str, Any] = encoder.preprocess(list(texts), prompt=prompt_of(encoder, task) or None, task=task)
    return features
