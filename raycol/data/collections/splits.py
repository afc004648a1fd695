"""Which judgements of a collection are read if no split is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SplitChoice = Callable[[str, Sequence[str]], str | None]
"""Chooses a split: from the collection's location, for messages, and the names of its splits, where "" is judgements
without a split. Returns None if it would choose none of them."""


def test_split(location: str, splits: Sequence[str]) -> str | None:
    """`test`, the judgements without a split, or the only ones."""
    return next((name for name in ("test", "") if name in splits), splits[0] if len(splits) == 1 else None)
