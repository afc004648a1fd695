"""ColBERT's settings of an encoder: padding, prefixes, lengths, query expansion, skiplist."""

from __future__ import annotations

import copy
import math
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import AddedToken

from raycol.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from torch import nn

# Defaults of a new ColBERT.
EMBEDDING_SIZE = 128
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 180
QUERY_PREFIX = "[Q] "
DOCUMENT_PREFIX = "[D] "
SKIPLIST = tuple(string.punctuation)

# Ids of the tokens that `load_encoder` added to the vocabulary, by encoder.
_new_tokens: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()


def set_padding(encoder: MultiVectorEncoder, name: str | Path) -> None:
    """Set a padding token if the tokenizer has none. Padding is masked, so any token will do.

    Raises:
        InputError: the tokenizer has no special token at all.
    """
    tokenizer = encoder.tokenizer
    if tokenizer.pad_token is None:
        token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        if token is None:
            raise InputError(
                f"model {str(name)!r}: its tokenizer has no padding token and no other special token to pad with; "
                "set pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = token


def set_prefixes(encoder: MultiVectorEncoder, prefixes: dict[str, str | None], seed: int) -> None:
    """Set the prefixes that are not None.

    A marker like "[Q]" that the tokenizer splits becomes one special token, also before a prompt: "[Q] query: ".
    """
    tokenizer = encoder.tokenizer
    markers = []
    for task, prefix in prefixes.items():
        if prefix is None:
            continue
        encoder.prompts[task] = prefix
        marker = prefix.strip().partition(" ")[0]
        if marker.startswith("[") and marker.endswith("]") and tokenizer.tokenize(marker) != [marker]:
            # If white space is part of tokens, the marker absorbs the space after it, so that the text's first word is
            # tokenized as without a marker. PyLate inserts markers after tokenizing, to the same effect.
            absorbs = tokenizer.tokenize(" a") != tokenizer.tokenize("a")
            markers.append(AddedToken(marker, rstrip=True, normalized=False, special=True) if absorbs else marker)
    if markers:
        known = tokenizer.get_vocab().keys()
        tokenizer.add_special_tokens({"additional_special_tokens": markers}, replace_extra_special_tokens=False)
        vocabulary = tokenizer.get_vocab()
        _new_tokens[encoder] = tuple(sorted(vocabulary[token] for token in vocabulary.keys() - known))
        _grow_vocabulary(encoder[0].auto_model, len(tokenizer), seed)


def new_tokens(encoder: MultiVectorEncoder) -> tuple[int, ...]:
    """Ids of the markers that `load_encoder` added to an encoder's vocabulary, with untrained embeddings."""
    return _new_tokens.get(encoder, ())


def _grow_vocabulary(backbone: Any, n_tokens: int, seed: int) -> None:
    """Add rows for new tokens to the embedding table, initialised as in BERT and identically on all machines."""
    n_old = backbone.get_input_embeddings().num_embeddings
    table = backbone.resize_token_embeddings(max(n_tokens, n_old), mean_resizing=False).weight
    deviation = getattr(backbone.config, "initializer_range", 0.02)
    new = np.random.default_rng(seed).standard_normal((len(table) - n_old, table.shape[1])) * deviation
    with torch.no_grad():
        table[n_old:] = torch.from_numpy(new).to(table.dtype)


def max_positions(encoder: MultiVectorEncoder) -> float:
    """Maximum number of tokens of the backbone; infinite if its configuration does not limit it.

    RoBERTa-style models number positions after the padding index, so they take fewer tokens than configured.
    """
    backbone = encoder[0].auto_model
    positions = getattr(backbone.config, "max_position_embeddings", None) or math.inf
    for name, module in backbone.named_modules():
        table = isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] == "position_embeddings"
        if table and module.padding_idx is not None:
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return positions


def cap_lengths(encoder: MultiVectorEncoder) -> None:
    """Cap a checkpoint's lengths at the backbone's number of positions: longer texts would fail."""
    positions, transformer = max_positions(encoder), encoder[0]
    if encoder.max_seq_length and encoder.max_seq_length > positions:
        encoder.max_seq_length = int(positions)
    for name in ("query_length", "document_length"):
        if (length := getattr(transformer, name)) is not None and length > positions:
            setattr(transformer, name, int(positions))


def set_lengths(
    encoder: MultiVectorEncoder,
    query_length: int | None,
    document_length: int | None,
    query_expansion: bool | None,
    attend: bool | None,
) -> None:
    """Set the lengths and the query expansion that are not None.

    Raises:
        InputError: a length beyond the model's positions, or `attend` without query expansion.
    """
    transformer = encoder[0]
    positions = max_positions(encoder)
    for name, wanted in (("query_length", query_length), ("document_length", document_length)):
        if wanted is not None and wanted > positions:
            raise InputError(
                f"{name} is {wanted}, but the model has only {positions} positions; pass a smaller length"
            )
    if document_length is not None:
        transformer.document_length = document_length
    current = transformer.query_expansion
    length = query_length or (current or {}).get("length") or transformer.query_length or QUERY_LENGTH
    expands = current is not None if query_expansion is None else query_expansion
    if attend and not expands:
        raise InputError(
            "attend_to_expansion has no effect: the model's queries are not expanded; leave attend_to_expansion out, "
            "or set query_expansion"
        )
    transformer.query_expansion = None
    if expands:
        attends = (current or {}).get("attend", False) if attend is None else attend
        settings = {"strategy": "fixed", **(current or {}), "attend": attends, "length": length}
        # Only expansion to a minimum length has longer queries, and with it `query_length` is their limit.
        if settings["strategy"] == "fixed" or query_length is not None:
            transformer.query_length = None
        transformer.query_expansion = settings
    elif query_length is not None or current is not None:
        transformer.query_length = length


def with_lengths(
    encoder: MultiVectorEncoder, query_length: int | None, document_length: int | None
) -> MultiVectorEncoder:
    """Return a copy that tokenizes with other lengths, if they are not None, and shares the weights.

    Raises:
        InputError: see `set_lengths`.
    """
    if query_length is None and document_length is None:
        return encoder
    changed = copy.copy(encoder)
    changed._modules = {**encoder._modules, next(iter(encoder._modules)): copy.copy(encoder[0])}
    set_lengths(changed, query_length, document_length, None, None)
    return changed


def unknown_words(tokenizer: Any, words: Iterable[str]) -> list[str]:
    """The words that are not a single token of the tokenizer's vocabulary."""
    missing = (None, tokenizer.unk_token_id)
    return [word for word in words if word != tokenizer.unk_token and tokenizer.convert_tokens_to_ids(word) in missing]


def set_skiplist(encoder: MultiVectorEncoder, words: Sequence[str]) -> None:
    """Set the words of documents that get no embedding."""
    for module in encoder:
        if isinstance(module, MultiVectorMask):
            module.skiplist_words = list(words)
            module.resolve_with_tokenizer(encoder.tokenizer)
