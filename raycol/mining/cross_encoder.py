"""Cross-encoders: sentence-transformers models that read a query and a document together and give one score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.errors import InputError, reason_of
from raycol.indexing.workers import cast_parameters, check_same_model, device_of
from raycol.models.discovery import find_checkpoint, read_json

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Pair = tuple[str, str]


def load_cross_encoder(name_or_path: str, *, device: str, max_length: int | None = None) -> CrossEncoder:
    """Open a cross-encoder, its weights in float32.

    Args:
        name_or_path: a folder or a name on the Hugging Face hub.
        device: cpu, cuda, ...
        max_length: tokens of query and document together; None for all that the model takes.

    Raises:
        InputError: no model there, or one that gives no single score to a pair.
    """
    source = find_checkpoint(name_or_path)
    settings = read_json(source, "config_sentence_transformers.json", dict)
    architectures = read_json(source, "config.json", dict).get("architectures") or []
    # Of anything else a cross-encoder would be made that scores at random.
    if settings.get("model_type") != "CrossEncoder" and not any(
        name.endswith("ForSequenceClassification") for name in architectures
    ):
        raise InputError(
            f"model {name_or_path!r} is no cross-encoder ({', '.join(architectures) or 'of no known architecture'}); "
            "expected one that scores a query and a document together, such as cross-encoder/ms-marco-MiniLM-L-12-v2"
        )
    import torch
    from sentence_transformers import CrossEncoder

    from raycol.models.encoder import quiet_transformers

    try:
        with quiet_transformers():
            model = CrossEncoder(source, device=device, max_length=max_length, model_kwargs={"dtype": torch.float32})
    except Exception as error:
        # Whatever a damaged checkpoint makes torch, safetensors and the rest raise.
        raise InputError(f"model {name_or_path!r} cannot be opened: {reason_of(error)}") from error
    if model.num_labels != 1:
        raise InputError(f"model {name_or_path!r} gives {model.num_labels} scores to a pair; expected one")
    return model.eval()


def probe_cross_encoder(model: CrossEncoder, name: str) -> None:
    """Score a short and a long pair at once, as a command does before it starts any work.

    Raises:
        InputError: the model fails at that.
    """
    pairs = [("a short query", "a short text"), ("a short query", "word " * min(model.max_seq_length or 512, 1024))]
    try:
        score_pairs(model, pairs, batch_size=len(pairs))
    except InputError:
        raise
    except Exception as error:
        # Whatever the model's own code raises.
        raise InputError(
            f"model {name!r} can be opened, and fails to score a short pair beside a long one: {reason_of(error)}; "
            "expected a cross-encoder whose tokenizer has a padding token and fits it"
        ) from error


def open_cross_encoder(
    name_or_path: str, on_gpu: bool, dtype: str, fingerprint: str, max_length: int | None
) -> CrossEncoder:
    """A cross-encoder as workers use it: in one thread, or on a GPU. Raises `InputError` where it is another one."""
    model = load_cross_encoder(name_or_path, device=device_of(on_gpu), max_length=max_length)
    check_same_model(name_or_path, cross_encoder_fingerprint(model), fingerprint)
    cast_parameters(model, on_gpu, dtype)
    return model


def cross_encoder_fingerprint(model: CrossEncoder) -> str:
    """A hash of what decides a cross-encoder's scores: weights, tokenizer, prompts, length."""
    from raycol.models.encoder import hash_weights, tokenizer_settings

    digest = xxhash.xxh3_128()
    hash_weights(model, digest)
    settings = {
        "modules": [type(module).__name__ for module in model],
        "prompts": [model.prompts, model.default_prompt_name],
        "max_length": model.max_seq_length,
        "tokenizer": tokenizer_settings(model.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def score_pairs(model: CrossEncoder, pairs: Sequence[Pair], batch_size: int) -> NDArray[np.float32]:
    """The logits of pairs of a query and a document, float32 [n]; they depend on all pairs, by rounding only.

    Raises:
        InputError: a score that is no number: half precision may overflow.
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
            f"the cross-encoder's score of {query[:60]!r} and {document[:60]!r} is no number; try --dtype float32"
        )
    return scores


def count_cut(model: CrossEncoder, pairs: Sequence[Pair]) -> int:
    """How many pairs are longer than the model reads."""
    limit = model.max_seq_length
    if not limit or not pairs:
        return 0
    queries, documents = zip(*pairs, strict=True)
    encoded: Any = model.tokenizer(list(queries), list(documents), truncation=False, verbose=False)
    return sum(len(tokens) > limit for tokens in encoded["input_ids"])
