"""When a call is tried again: how often, after how long, and until when."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

# What a try ended with: an answer, or the reason why there is none.
Outcome = httpx2.Response | httpx2.HTTPError

_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 8.0
# An endpoint may ask for more; it is tried again after this much all the same.
MAX_RETRY_AFTER_S = 30.0


class Tries:
    """The tries that one call has left, and their time.

    Waits double and are drawn at random from 0 up (full jitter), so that clients that failed together do not come
    back together.

    Args:
        retries: tries after the first.
        timeout_s: for all tries and the waits between them.
        clock: seconds that only grow.
        jitter: draws a number between two.
    """

    def __init__(
        self,
        retries: int,
        timeout_s: float,
        clock: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._left = retries
        self._clock = clock
        self._deadline = clock() + timeout_s
        self._jitter = jitter
        self._backoff_s = _FIRST_BACKOFF_S

    @property
    def left_s(self) -> float:
        """What is left of the time; never 0, which would mean no limit to some."""
        return max(self._deadline - self._clock(), 1e-3)

    def next_wait(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next try, after one that ended so; None where there is no next."""
        if self._left == 0:
            return None
        wait = self._jitter(0.0, self._backoff_s)
        if isinstance(outcome, httpx2.Response):
            wait += retry_after(outcome.headers.get("retry-after"), datetime.now(UTC))
        if wait >= self._deadline - self._clock():
            return None
        self._left -= 1
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        return wait


def retry_after(header: str | None, now: datetime) -> float:
    """Seconds that a `Retry-After` header asks for, as a number or a date, up to a limit; 0 where it says nothing."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
        # A date without a zone is meant as UTC, as all of HTTP's are.
        wait = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), MAX_RETRY_AFTER_S)
