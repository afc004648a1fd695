"""Split long documents into overlapping passages by tokens."""

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

# A longer run without a space is cut anywhere: it is not a word of a language that has spaces.
_MAX_WORD = 40


@dataclass(frozen=True)
class Splitter:
    """Splits documents into passages that the encoder does not truncate.

    A passage has at most `size.tokens` tokens of the text, fewer if prompt, title and special tokens leave fewer. A
    title that exceeds half of the token budget is split together with the text.

    Args:
        tokenizer: fast tokenizer of transformers, which returns token offsets.
        size: tokens per passage, and tokens that consecutive passages share.
        limit: the encoder's document length in tokens, special tokens included.
        prompt: the encoder's document prompt.
    """

    tokenizer: Any
    size: SplitInfo
    limit: int
    prompt: str = ""

    @cached_property
    def token_budget(self) -> int:
        """Tokens available for title and text. Raises `InputError` if there are none."""
        budget = self.limit - self._count(self.prompt)
        if budget < 1:
            raise InputError(
                f"the model's document length is {self.limit} tokens, all taken by its prompt and special tokens; "
                "leave `split_tokens=` out, or use a model with longer documents"
            )
        return budget

    def __call__(self, document: Passage) -> Iterator[Passage]:
        """Yield the passages of a document.

        Each has the document's title and metadata, the document's id as its parent, and as its id the document's id
        with the passage's number, which is unique whatever the ids of other documents are.
        """
        title, texts = self._split(document.title, document.text)
        for number, text in enumerate(texts):
            metadata = {**document.metadata, PARENT: document.id}
            yield replace(document, id=passage_id(document.id, number), title=title, text=text, metadata=metadata)

    def _split(self, title: str, text: str) -> tuple[str, list[str]]:
        """Return the title and the texts of the passages; the title is empty if it was split with the text."""
        budget = self.token_budget
        head = f"{self.prompt}{title} " if title.strip() else self.prompt
        starts, n_other = self._token_starts(head, text)
        available = self.limit - n_other
        size = min(self.size.tokens, available)
        if len(starts) <= size:
            return title, [text]
        if title.strip() and 2 * available < budget:
            return self._split("", f"{title} {text}")
        # Shorter passages overlap in proportion.
        overlap = min(size - 1, -(-self.size.overlap * size // self.size.tokens))
        return title, cut(text, starts, size, overlap, lambda piece: self._count(head + piece) - n_other)

    def _token_starts(self, head: str, text: str) -> tuple[list[int], int]:
        """Return the offset of each token of the text in it, and the number of other tokens (head and special)."""
        encoded = self.tokenizer(head + text, return_offsets_mapping=True, truncation=False, verbose=False)
        tokens = zip(encoded["offset_mapping"], encoded.sequence_ids(0), strict=True)
        spans = [(start - len(head), stop - len(head)) for (start, stop), sequence in tokens if sequence is not None]
        starts = [_skip_spaces(text, max(0, start), stop) for start, stop in spans if stop > 0]
        return starts, len(encoded["input_ids"]) - len(starts)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def cut(text: str, starts: Sequence[int], size: int, overlap: int, count: Callable[[str], int]) -> list[str]:
    """Cut a text into pieces that together cover it, at word boundaries unless a word is too long.

    Args:
        text: the text.
        starts: offsets of its tokens, ascending; several tokens may start at one character.
        size: maximum tokens of a piece, which has at least one character.
        overlap: tokens of a piece that the next one repeats, fewer than `size`; more to begin at a word,
            0 if the piece is shorter than this.
        count: returns the number of tokens of a piece tokenised on its own, where a cut word may have more tokens.
    """

    def offset(token: int) -> int:
        return starts[token] if token < len(starts) else len(text)

    def find_stop(start: int, after: int) -> int:
        """End of the piece that begins at `start`; at a word boundary if one is behind `after`."""
        first = bisect_left(starts, start)
        last = first + size
        while True:
            stop = max(offset(last), offset(bisect_right(starts, offset(first))))
            if stop < len(text):
                stop = _word_start(text, stop, max(after, offset(first + overlap)))
            excess = count(text[start:stop]) - size
            if excess <= 0 or last <= first + 1:
                return stop
            last = max(first + 1, last - excess)

    pieces: list[str] = []
    start = stop = 0
    while stop < len(text):
        before, stop = stop, find_stop(start, stop)
        if stop <= before:  # the overlap fills the whole piece: begin without it
            start, stop = before, find_stop(before, before)
        pieces.append(text[start:stop])
        begin = offset(bisect_left(starts, stop) - overlap)
        start = _word_start(text, begin, start) if overlap and start < begin < stop else stop
    return [piece for piece in pieces if piece.strip()] or [text]


def _word_start(text: str, offset: int, before: int) -> int:
    """Start of the word at an offset; the offset itself if the word starts at or before `before` or is too long."""
    start = offset
    while start > before and not text[start - 1].isspace():
        start -= 1
        if offset - start > _MAX_WORD:
            return offset
    return start if start > before else offset


def _skip_spaces(text: str, start: int, stop: int) -> int:
    """Start of the word in a token that may include the preceding space."""
    while start < stop and text[start].isspace():
        start += 1
    return start
