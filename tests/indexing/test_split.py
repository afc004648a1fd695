"""Splitting long documents: no passage is truncated by the encoder, and no text is lost."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raycol.data import Passage
from raycol.errors import InputError
from raycol.index.format.manifest import SplitInfo
from raycol.indexing.split import Splitter, cut
from tests.conftest import TOPICS

WORDS = " ".join(TOPICS.values()).split()
# Words of one token and of many, long runs without a space, and characters of several tokens.
TEXT = [*WORDS[:5], "qzzq" * 3, "b" * 50, "xy" * 60, "雨雨雨", "🌧" * 3, ".", "\u200b", "x-y-z"]
GAPS = [" ", "\n", "  ", "-", ""]


@cache
def word_piece(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@cache
def byte_level() -> Any:
    """A tokenizer like RoBERTa's: a word's token includes the space before it; a character may have several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tokens_of(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def assert_covers(pieces: list[str], text: str) -> None:
    """Assert that each piece begins within or right after the previous one, and that together they are the text."""
    stops = {0}
    for piece in pieces:
        assert piece.strip()
        starts = [start for start in range(len(text)) if text.startswith(piece, start)]
        reached = {(stop, start + len(piece)) for stop in stops for start in starts if start <= stop}
        stops = {end for stop, end in reached if stop <= end}
    assert len(text) in stops


@pytest.mark.slow
@given(
    words=st.lists(st.tuples(st.sampled_from(TEXT), st.sampled_from(GAPS)), min_size=1, max_size=40),
    title=st.lists(st.sampled_from(TEXT), max_size=8).map(" ".join),
    limit=st.integers(16, 40),
    size=st.integers(1, 40),
    share=st.floats(0, 0.99),
    bytes_=st.booleans(),
)
def test_no_passage_is_truncated_and_no_text_is_lost(
    tiny_backbone: Path,
    words: list[tuple[str, str]],
    title: str,
    limit: int,
    size: int,
    share: float,
    bytes_: bool,
) -> None:
    text = "".join(f"{word}{gap}" for word, gap in words).strip()
    tokenizer = byte_level() if bytes_ else word_piece(tiny_backbone)
    prompt = "d: "
    splitter = Splitter(tokenizer, SplitInfo(tokens=size, overlap=int(share * size)), limit, prompt)
    passages = list(splitter(Passage("d", title, text, {"year": 1})))
    assert [passage.id for passage in passages] == [f"d#{number}" for number in range(len(passages))]
    assert all(passage.metadata == {"year": 1, "parent": "d"} for passage in passages)
    for passage in passages:
        assert tokens_of(tokenizer, prompt + passage.content) <= limit
    if passages[0].title == title:
        assert all(passage.title == title for passage in passages)
        whole = text
    else:
        assert {passage.title for passage in passages} == {""}
        whole = f"{title} {text}"
    # Whitespace between two passages may be in neither.
    assert_covers(["".join(passage.text.split()) for passage in passages], "".join(whole.split()))


@given(
    words=st.lists(st.tuples(st.sampled_from(TEXT), st.sampled_from(GAPS)), min_size=1, max_size=40),
    size=st.integers(1, 12),
    share=st.floats(0, 0.99),
)
def test_passages_have_at_most_the_requested_tokens(
    tiny_backbone: Path, words: list[tuple[str, str]], size: int, share: float
) -> None:
    text = "".join(f"{word}{gap}" for word, gap in words).strip()
    tokenizer = word_piece(tiny_backbone)
    splitter = Splitter(tokenizer, SplitInfo(tokens=size, overlap=int(share * size)), 128)
    pieces = [passage.text for passage in splitter(Passage("d", "", text))]
    for piece in pieces:
        assert tokens_of(tokenizer, piece) - tokens_of(tokenizer, "") <= size or len(piece.strip()) == 1
    whole = Splitter(tokenizer, SplitInfo(tokens=size), 128)
    joined = "".join(passage.text for passage in whole(Passage("d", "", text)))
    assert joined.replace("\u200b", "") == text.replace("\u200b", "")


def test_passages_overlap_by_the_requested_tokens_in_whole_words(tiny_backbone: Path) -> None:
    words = WORDS * 5
    splitter = Splitter(word_piece(tiny_backbone), SplitInfo(tokens=10, overlap=4), 128)
    pieces = [passage.text.split() for passage in splitter(Passage("d", "a title", " ".join(words)))]
    assert pieces == [words[start : start + 10] for start in range(0, len(words) - 4, 6)]
    # With three tokens per word, ten tokens are three words, and four are two.
    longer = ["fogxx"] * 30
    pieces = [passage.text.split() for passage in splitter(Passage("d", "", " ".join(longer)))]
    assert [len(piece) for piece in pieces] == [3] * 28


def test_a_title_takes_at_most_half_of_the_token_budget(tiny_backbone: Path) -> None:
    """The model takes 32 tokens: two special tokens, three of the prompt, 27 of the document."""
    splitter = Splitter(word_piece(tiny_backbone), SplitInfo(tokens=30), 32, "[D] ")
    text = " ".join(WORDS * 2)
    assert splitter.token_budget == 27
    for title, length in (("", 27), ("rain wind", 25), (" ".join(WORDS[:13]), 14)):
        passages = list(splitter(Passage("d", title, text)))
        assert {passage.title for passage in passages} == {title}
        assert len(passages[0].text.split()) == length
    title = " ".join(WORDS[:14])
    passages = list(splitter(Passage("d", title, text)))
    assert {passage.title for passage in passages} == {""}
    assert "".join(passage.text for passage in passages) == f"{title} {text}"
    (whole,) = splitter(Passage("d", title, "rain"))
    assert (whole.title, whole.text) == (title, "rain")


def test_a_model_without_tokens_for_the_text_is_refused(tiny_backbone: Path) -> None:
    splitter = Splitter(word_piece(tiny_backbone), SplitInfo(tokens=3), 5, "[D] ")
    with pytest.raises(InputError, match="document length is 5 tokens, all taken by its prompt"):
        list(splitter(Passage("d", "", "rain wind storm")))


def test_passage_ids_are_unique_for_confusable_document_ids(tiny_backbone: Path) -> None:
    splitter = Splitter(word_piece(tiny_backbone), SplitInfo(tokens=4, overlap=1), 128)
    documents = [Passage(id_, "", "rain wind storm cloud " * 3) for id_ in ("a", "a#0", "a#0#0", "#", "a#1")]
    pieces = [piece for document in documents for piece in splitter(document)]
    assert len({piece.id for piece in pieces}) == len(pieces) > 10


def test_a_long_text_without_spaces_is_cut_at_tokens() -> None:
    text = "x" * 1000
    pieces = cut(text, range(1000), 10, 3, len)
    assert [len(piece) for piece in pieces[:-1]] == [10] * (len(pieces) - 1)
    assert pieces[0] + "".join(piece[3:] for piece in pieces[1:]) == text
