"""Splitting long documents into overlapping passages, by tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from raycol.data import Passage
from raycol.errors import InputError
from raycol.index.format.manifest import SplitInfo, passage_id
from raycol.indexing.metadata import PARENT

# Longer runs without a space are no words of a language that has spaces.
_LONGEST_WORD = 40


@dataclass(frozen=True)
class Splitter:
    """Cuts documents into passages that the encoder takes whole.

    A passage has at most `size.tokens` tokens of the text, or fewer where prompt, title and special tokens leave room
    for fewer. A title that would take more than half of the room is split with the text, and is no title any more.

    Args:
        tokenizer: of transformers, a fast one, which knows where in the text its tokens are.
        size: tokens a passage, and how many of them two passages share.
        limit: tokens that the encoder takes, special ones included.
        prompt: what the encoder puts before a document.
    """

    tokenizer: Any
    size: SplitInfo
    limit: int
    prompt: str = ""

    @cached_property
    def room(self) -> int:
        """Tokens that are left for title and text. Raises `InputError` where none is."""
        room = self.limit - self._count(self.prompt)
        if room < 1:
            raise InputError(f"the model takes {self.limit} tokens a document, all of them its own markers")
        return room

    def __call__(self, document: Passage) -> Iterator[Passage]:
        """The passages of a document.

        Each has the document's title and metadata, the document's id as its parent, and that id with its own number as
        its id: so ids stay distinct, whatever the documents' are.
        """
        title, pieces = self._pieces(document.title, document.text)
        for number, text in enumerate(pieces):
            metadata = {**document.metadata, PARENT: document.id}
            yield replace(document, id=passage_id(document.id, number), title=title, text=text, metadata=metadata)

    def _pieces(self, title: str, text: str) -> tuple[str, list[str]]:
        room = self.room
        head = f"{self.prompt}{title} " if title.strip() else self.prompt
        starts, others = self._locate(head, text)
        left = self.limit - others
        size = min(self.size.tokens, left)
        if len(starts) <= size:
            return title, [text]
        if title.strip() and 2 * left < room:
            return self._pieces("", f"{title} {text}")
        # Of smaller passages two share a part that is as large.
        overlap = min(size - 1, -(-self.size.overlap * size // self.size.tokens))
        return title, cut(text, starts, size, overlap, lambda piece: self._count(head + piece) - others)

    def _locate(self, head: str, text: str) -> tuple[list[int], int]:
        """Where each token of the text starts in it, and how many other tokens there are."""
        encoded = self.tokenizer(head + text, return_offsets_mapping=True, truncation=False, verbose=False)
        places = zip(encoded["offset_mapping"], encoded.sequence_ids(0), strict=True)
        spans = [(start - len(head), stop - len(head)) for (start, stop), own in places if own is not None]
        starts = [_word_in(text, max(0, start), stop) for start, stop in spans if stop > 0]
        return starts, len(encoded["input_ids"]) - len(starts)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def cut(text: str, starts: Sequence[int], size: int, overlap: int, count: Callable[[str], int]) -> list[str]:
    """Pieces of a text that together are all of it. They begin and end with words, where these are not too long.

    Args:
        text: what to cut.
        starts: where its tokens start, ascending; several may stand for one character.
        size: tokens a piece, at most; but a piece has a character at least.
        overlap: how many tokens before a piece's end the next one begins, fewer than `size`. A word's more where it
            would begin within a word; none where a piece is shorter than that.
        count: how many tokens a piece has by itself: of a word that was cut, there may be more than in the whole.
    """

    def place(token: int) -> int:
        return starts[token] if token < len(starts) else len(text)

    def find_stop(start: int, after: int) -> int:
        """Where a piece ends."""
        first = bisect_left(starts, start)
        last = first + size
        while True:
            stop = max(place(last), place(bisect_right(starts, place(first))))
            if stop < len(text):
                stop = _word_start(text, stop, max(after, place(first + overlap)))
            over = count(text[start:stop]) - size
            if over <= 0 or last <= first + 1:
                return stop
            last = max(first + 1, last - over)

    pieces: list[str] = []
    start = stop = 0
    while stop < len(text):
        before, stop = stop, find_stop(start, stop)
        if stop <= before:  # what it shares with the last one leaves no room for more
            start, stop = before, find_stop(before, before)
        pieces.append(text[start:stop])
        begin = place(bisect_left(starts, stop) - overlap)
        start = _word_start(text, begin, start) if overlap and start < begin < stop else stop
    return [piece for piece in pieces if piece.strip()] or [text]


def _word_start(text: str, place: int, before: int) -> int:
    """Where the word begins that a place is in; the place itself where that is no place after the one before."""
    start = place
    while start > before and not text[start - 1].isspace():
        start -= 1
        if place - start > _LONGEST_WORD:
            return place
    return start if start > before else place


def _word_in(text: str, start: int, stop: int) -> int:
    """Where the word begins in a token that may have the space before it."""
    while start < stop and text[start].isspace():
        start += 1
    return start
