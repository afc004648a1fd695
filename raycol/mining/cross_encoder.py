"""Open cross-encoders, which read a query and a document together, and score pairs with them.

They are models of sentence-transformers with one output, or language models (`raycol/mining/rerankers.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.errors import InputError, reason_of
from raycol.indexing.workers import cast_parameters, check_same_model, device_of
from raycol.mining.rerankers import find_prompt, is_reranker, load_reranker
from raycol.models.discovery import find_checkpoint, read_json

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Pair = tuple[str, str]
# Prompts that are tokenized at a time to count the long ones: bounds the padding.
_COUNTED = 64


def load_cross_encoder(name_or_path: str, *, device: str, max_length: int | None = None) -> CrossEncoder:
    """Return a cross-encoder in eval mode, with float32 weights.

    Args:
        name_or_path: a folder or a name on the Hugging Face hub.
        device: cpu, cuda, ...
        max_length: tokens of query and document together; by default the model's maximum.

    Raises:
        InputError: the model does not exist, cannot be opened, or does not return a single score per pair.
    """
    source = find_checkpoint(name_or_path)
    config = read_json(source, "config.json", dict)
    architectures = config.get("architectures") or []
    is_cross_encoder = read_json(source, "config_sentence_transformers.json", dict).get("model_type") == "CrossEncoder"
    is_causal = any(name.endswith("ForCausalLM") for name in architectures)
    prompt = find_prompt(name_or_path, source, config) if is_causal and not is_cross_encoder else None
    # From any other checkpoint sentence-transformers would make a cross-encoder with a randomly initialised head.
    if not (is_cross_encoder or prompt or any(name.endswith("ForSequenceClassification") for name in architectures)):
        raise InputError(
            f"model {name_or_path!r} is not a cross-encoder ({', '.join(architectures) or 'unknown architecture'}); "
            "expected one that scores a query and a document together, such as cross-encoder/ms-marco-MiniLM-L-12-v2"
        )
    import torch
    from sentence_transformers import CrossEncoder

    from raycol.models.encoder import quiet_transformers

    try:
        with quiet_transformers():
            if prompt:
                return load_reranker(source, name_or_path, prompt, device=device, max_length=max_length).eval()
            model = CrossEncoder(source, device=device, max_length=max_length, model_kwargs={"dtype": torch.float32})
    except InputError:
        raise
    except Exception as error:
        # A damaged checkpoint makes torch, safetensors and transformers raise errors of many types.
        raise InputError(f"model {name_or_path!r} cannot be opened: {reason_of(error)}") from error
    if model.num_labels != 1:
        raise InputError(f"model {name_or_path!r} returns {model.num_labels} scores per pair; expected one score")
    return model.eval()


def probe_cross_encoder(model: CrossEncoder, name: str) -> None:
    """Score a short and a long pair in one batch, to find a broken model before any work is done.

    Raises:
        InputError: the model fails.
    """
    # A language model of billions of parameters takes minutes for a thousand tokens on a CPU.
    words = min(model.max_seq_length or 512, 64 if is_reranker(model) else 1024)
    pairs = [("a short query", "a short text"), ("a short query", "word " * words)]
    try:
        score_pairs(model, pairs, batch_size=len(pairs))
    except InputError:
        raise
    except Exception as error:
        # A model's own code may raise any type of error.
        raise InputError(
            f"model {name!r} fails to score a short and a long pair in one batch: {reason_of(error)}; expected a "
            "cross-encoder with its own tokenizer, which has a padding token"
        ) from error


def open_cross_encoder(
    name_or_path: str, on_gpu: bool, dtype: str, fingerprint: str, max_length: int | None
) -> CrossEncoder:
    """Return a worker's cross-encoder: on a GPU, or in one thread. Raises `InputError` if its fingerprint differs."""
    model = load_cross_encoder(name_or_path, device=device_of(on_gpu), max_length=max_length)
    check_same_model(name_or_path, cross_encoder_fingerprint(model), fingerprint)
    cast_parameters(model, on_gpu, dtype)
    return model


def cross_encoder_fingerprint(model: CrossEncoder) -> str:
    """Hash of all that decides a cross-encoder's scores: weights, tokenizer, prompts, maximum length."""
    from raycol.models.encoder import hash_weights, tokenizer_settings

    digest = xxhash.xxh3_128()
    hash_weights(model, digest)
    settings = {
        "modules": [type(module).__name__ for module in model],
        "prompts": [model.prompts, model.default_prompt_name],
        "max_length": model.max_seq_length,
        "tokenizer": tokenizer_settings(model.tokenizer),
    }
    if is_reranker(model):
        settings["prompt"] = [model.tokenizer.chat_template, *(module.get_config_dict() for module in list(model)[1:])]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def score_pairs(model: CrossEncoder, pairs: Sequence[Pair], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of (query, document) pairs, float32 [n]; batching changes them by rounding only.

    Raises:
        InputError: a score is not finite; half precision may overflow.
    """
    from torch.nn import Identity

    if not pairs:
        return np.empty(0, dtype=np.float32)
    scores: NDArray[np.float32] = model.predict(
        list(pairs), batch_size=batch_size, activation_fn=Identity(), show_progress_bar=False
    ).astype(np.float32)
    if not np.isfinite(scores).all():
        query, document = pairs[int(np.isfinite(scores).argmin())]
        raise InputError(
            f"the cross-encoder's score of {query[:60]!r} and {document[:60]!r} is not finite; try `dtype='float32'`"
        )
    return scores


def count_truncated(model: CrossEncoder, pairs: Sequence[Pair]) -> int:
    """Number of pairs longer than the model's maximum length."""
    limit = model.max_seq_length
    if not limit or not pairs:
        return 0
    if is_reranker(model):
        whole = {"text": {"truncation": False}}
        batches = (list(pairs[start : start + _COUNTED]) for start in range(0, len(pairs), _COUNTED))
        lengths = [model.preprocess(batch, processing_kwargs=whole)["attention_mask"].sum(dim=1) for batch in batches]
        return sum(int((of_batch > limit).sum()) for of_batch in lengths)
    queries, documents = zip(*pairs, strict=True)
    encoded: Any = model.tokenizer(list(queries), list(documents), truncation=False, verbose=False)
    return sum(len(tokens) > limit for tokens in encoded["input_ids"])
