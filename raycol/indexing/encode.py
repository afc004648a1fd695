"""Encode texts in batches of similar length and a fixed number of tokens, while the next texts are tokenised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.models.tokenization import prompt_of, tokenize

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

A = TypeVar("A")

# Texts per call of the tokenizer.
_TOKENISED = 256


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded texts: their positions, embeddings [n_tokens, dim], and the number of truncated texts."""

    positions: list[int]
    embeddings: list[NDArray[np.float32]]
    truncated: int


@dataclass(frozen=True)
class TokenisedTexts:
    """Some tokenised texts: their positions, padded features in small dtypes, and which of them are truncated."""

    positions: list[int]
    features: dict[str, Any]
    truncated_N: NDArray[np.bool_]


def encode_texts(encoder: MultiVectorEncoder, texts: Sequence[str], batch_tokens: int) -> Iterator[Encoded]:
    """Yield batches of encoded documents, from the longest document to the shortest.

    The embeddings equal those of `encoder.encode_document` up to rounding, because its batches pad differently. They
    depend only on the texts and `batch_tokens`.

    Args:
        encoder: late-interaction encoder.
        texts: at least one.
        batch_tokens: tokens per batch, padding included; a longer text is a batch of its own.
    """
    return encode_tokenised(encoder, _ahead(tokenise_texts(encoder, texts)), batch_tokens)


def tokenise_texts(encoder: MultiVectorEncoder, texts: Sequence[str]) -> Iterator[TokenisedTexts]:
    """Yield tokenised documents, a few hundred of similar length at a time, from the longest to the shortest."""
    order = sorted(range(len(texts)), key=lambda position: -len(texts[position]))
    for start in range(0, len(order), _TOKENISED):
        chunk = order[start : start + _TOKENISED]
        features, truncated_N = _tokenise(encoder, [texts[position] for position in chunk])
        yield TokenisedTexts(chunk, _compact(features), truncated_N)


def encode_tokenised(
    encoder: MultiVectorEncoder, tokenised: Iterable[TokenisedTexts], batch_tokens: int
) -> Iterator[Encoded]:
    """Yield batches of encoded documents: `encode_texts` of texts that `tokenise_texts` has tokenised."""
    # With flash attention, the encoder would flatten the batch into one row; texts of similar length do not need that.
    encoder[0].unpad_inputs = False
    for chunk in tokenised:
        for rows, embeddings in _encode(encoder, chunk.features, batch_tokens):
            positions = [chunk.positions[row] for row in rows]
            yield Encoded(positions, embeddings, int(chunk.truncated_N[rows].sum()))


def _ahead(items: Iterator[A]) -> Iterator[A]:
    """Yield the items, each of which a thread makes while the caller uses the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def _compact(features: dict[str, Any]) -> dict[str, Any]:
    """Features with integers [n_texts, n_tokens] in the smallest dtype that holds them; `_encode` restores int64."""
    import torch

    small = dict(features)
    for name, value in features.items():
        if not _is_by_token(value, features) or value.dtype != torch.int64 or not value.numel():
            continue
        low, high = int(value.min()), int(value.max())
        if low >= -(2**31) and high < 2**31:
            small[name] = value.to(torch.uint8 if low >= 0 and high < 256 else torch.int32)
    return small


def _is_by_token(value: Any, features: dict[str, Any]) -> bool:
    """Whether a feature has a number for each token, [n_texts, n_tokens]."""
    import torch

    return isinstance(value, torch.Tensor) and value.shape[:2] == features["attention_mask"].shape


def _tokenise(encoder: MultiVectorEncoder, texts: list[str]) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return padded features, and a mask of the texts that exceed the encoder's document length."""
    prompt = prompt_of(encoder, "document")
    features = tokenize(encoder, texts, "document")
    lengths = features["attention_mask"].sum(1).numpy()
    limit = document_length(encoder)
    truncated = lengths >= limit
    for row in np.flatnonzero(truncated):
        whole = encoder.tokenizer(f"{prompt}{texts[row]}", truncation=False, verbose=False)["input_ids"]
        truncated[row] = len(whole) > limit
    return features, truncated


def document_length(encoder: MultiVectorEncoder) -> int:
    """Maximum tokens of a document, special tokens and prompt included."""
    return int(min(encoder[0].document_length or encoder.max_seq_length, encoder.max_seq_length))


def _encode(
    encoder: MultiVectorEncoder, features: dict[str, Any], batch_tokens: int
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
    """Yield batches of similar length: rows of the features, and their embeddings."""
    import torch

    lengths = features["attention_mask"].sum(1).numpy()
    order = np.argsort(-lengths, kind="stable")
    n_rows, width = features["attention_mask"].shape
    left = encoder.tokenizer.padding_side == "left"
    start = 0
    while start < n_rows:
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, batch_tokens // longest)]
        columns = slice(width - longest, width) if left else slice(longest)
        batch = {
            name: _restored(value[rows][:, columns]).to(encoder.device) if _is_by_token(value, features) else value
            for name, value in features.items()
        }
        with torch.inference_mode():
            encoded = encoder(batch, task="document")
            tokens, mask = encoded["token_embeddings"].float().cpu(), encoded["attention_mask"].bool().cpu()
        yield rows, [row[is_token].numpy() for row, is_token in zip(tokens, mask, strict=True)]
        start += len(rows)


def _restored(value: Any) -> Any:
    import torch

    return value.to(torch.int64) if value.dtype in (torch.uint8, torch.int32) else value
