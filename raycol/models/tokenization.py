"""Tokenization for encoders: the same token ids in training, mining, indexing and serving.

sentence-transformers prepends the prompt ("[Q] ", "[D] ") in `encode_query` and `encode_document`, but not in
`preprocess`, which its Trainer calls. All code that tokenizes without encoding uses this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from raycol.models.protocol import TokenOffsets

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


def token_offsets(encoder: MultiVectorEncoder, text: str, is_query: bool) -> list[TokenOffsets]:
    """The text's tokens that have embeddings, with start and end offsets; both 0 for special tokens and padding."""
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    task: Task = "query" if is_query else "document"
    prompt = prompt_of(encoder, task)
    features = tokenize(encoder, [text], task)
    ids = features["input_ids"][0].tolist()
    for module in encoder:
        if isinstance(module, MultiVectorMask):
            features = module(features, task=task)
    mask = features["attention_mask"][0].bool().tolist()
    tokenizer = encoder.tokenizer
    plain = tokenizer(f"{prompt}{text}", return_offsets_mapping=True, verbose=False)
    plain_tokens = dict(enumerate(zip(plain["input_ids"], plain["offset_mapping"], strict=True)))
    tokens = []
    for position, (token_id, has_embedding) in enumerate(zip(ids, mask, strict=True)):
        if not has_embedding:
            continue
        plain_id, (start, stop) = plain_tokens.get(position, (None, (0, 0)))
        in_text = plain_id == token_id and start >= len(prompt)
        offsets = (start - len(prompt), stop - len(prompt)) if in_text else (0, 0)
        tokens.append((tokenizer.convert_ids_to_tokens(token_id), *offsets))
    return tokens
