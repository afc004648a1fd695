"""Deadline of the running search, after which it stops with `TimeoutError`.

The deadline is a context variable because the slow loops (a LIKE over every row, many queries in one call) are far
below the request handler that sets it. Without a deadline, searches run to the end.
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
    """Set the deadline of the block, in seconds of `time.monotonic`."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def check_deadline() -> None:
    """Raise `TimeoutError` if the deadline has passed."""
    if time.monotonic() > _DEADLINE.get():
        raise TimeoutError("search stopped: its deadline has passed")
