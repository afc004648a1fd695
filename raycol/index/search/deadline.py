"""Until when a search is worth going on with: whoever asked for it may have given up.

A context variable, since what takes long, a pattern over every text or one query of many, lies far below whoever
knows. Without a deadline nothing ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let what runs in the block end at a time, by `time.monotonic`, with `TimeoutError`."""
    before = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(before)


def check_time() -> None:
    """Raise `TimeoutError` where the deadline is over."""
    if time.monotonic() > _DEADLINE.get():
        raise TimeoutError("given up in the midst of it: its time is over")
