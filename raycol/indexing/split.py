"""Splitting long documents into overlapping passages, by tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from raycol.data import Passage
from raycol.indexing.metadata import PARENT

# Longer runs without a space are no words of a language that has spaces.
_LONGEST_WORD = 40


def split_passage(passage: Passage, tokenizer: Any, size: int, overlap: int) -> Iterator[Passage]:
    """Cut a document's text into passages of `size` tokens, each beginning `overlap` tokens before the last one's end.

    Every passage has the document's title and metadata, the document's id as its parent, and that id with its own
    number as its id: so ids stay distinct, whatever the documents' are.

    Args:
        passage: the document.
        tokenizer: of transformers, a fast one, which knows where in the text its tokens are.
        size: tokens a passage.
        overlap: how many tokens two passages share, fewer than `size`.
    """
    for number, text in enumerate(split_text(passage.text, tokenizer, size, overlap)):
        metadata = {**passage.metadata, PARENT: passage.id}
        yield replace(passage, id=f"{passage.id}#{number}", text=text, metadata=metadata)


def split_text(text: str, tokenizer: Any, size: int, overlap: int) -> Iterable[str]:
    """The pieces of a text; the text itself where it is short enough."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    offsets = encoded["offset_mapping"]
    if len(offsets) <= size:
        return [text]
    pieces, start = [], 0
    for first in range(0, len(offsets) - overlap, size - overlap):
        start = _word_start(text, offsets[first][0], start) if first else 0
        stop = _word_start(text, offsets[first + size][0], start) if first + size < len(offsets) else len(text)
        pieces.append(text[start:stop])
    # Several tokens may stand for one character: what is between two of them is nothing.
    return [piece for piece in pieces if piece.strip()] or [text]


def _word_start(text: str, place: int, before: int) -> int:
    """Where the word begins that a place is in; the place itself where that is no place after the one before."""
    start = place
    while start > before and not text[start - 1].isspace():
        start -= 1
        if place - start > _LONGEST_WORD:
            return place
    return start if start > before else place
