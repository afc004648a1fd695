"""Encode texts in batches of similar length and a fixed number of tokens, while the next texts are tokenised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.models.tokenization import prompt_of, tokenize

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

A = TypeVar("A")
R = TypeVar("R")

# Texts per call of the tokenizer.
_TOKENISED = 256


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded texts: their positions, embeddings [n_tokens, dim], and the number of truncated texts."""

    positions: list[int]
    embeddings: list[NDArray[np.float32]]
    truncated: int


def encode_texts(encoder: MultiVectorEncoder, texts: Sequence[str], batch_tokens: int) -> Iterator[Encoded]:
    """Yield batches of encoded documents, from the longest document to the shortest.

    The embeddings equal those of `encoder.encode_document` up to rounding, because its batches pad differently. They
    depend only on the texts and `batch_tokens`.

    Args:
        encoder: late-interaction encoder.
        texts: at least one.
        batch_tokens: tokens per batch, padding included; a longer text is a batch of its own.
    """
    # With flash attention, the encoder would flatten the batch into one row; texts of similar length do not need that.
    encoder[0].unpad_inputs = False
    order = sorted(range(len(texts)), key=lambda position: -len(texts[position]))
    chunks = [order[start : start + _TOKENISED] for start in range(0, len(order), _TOKENISED)]
    tokenised = _ahead(lambda chunk: _tokenise(encoder, [texts[position] for position in chunk]), chunks)
    for chunk, (features, truncated) in zip(chunks, tokenised, strict=True):
        for rows, embeddings in _encode(encoder, features, batch_tokens):
            yield Encoded([chunk[row] for row in rows], embeddings, int(truncated[rows].sum()))


def _ahead(function: Callable[[A], R], items: Iterable[A]) -> Iterator[R]:
    """Yield the function's result for each item, computed in a thread while the caller uses the previous one."""
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
        current: Future[R] | None = None
        for item in items:
            before, current = current, pool.submit(function, item)
            if before:
                yield before.result()
        if current:
            yield current.result()


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
            name: value[rows][:, columns].to(encoder.device)
            if isinstance(value, torch.Tensor) and value.shape[:2] == (n_rows, width)
            else value
            for name, value in features.items()
        }
        with torch.inference_mode():
            encoded = encoder(batch, task="document")
            tokens, mask = encoded["token_embeddings"].float().cpu(), encoded["attention_mask"].bool().cpu()
        yield rows, [row[is_token].numpy() for row, is_token in zip(tokens, mask, strict=True)]
        start += len(rows)
