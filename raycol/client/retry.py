"""Retries of a call: number, backoff and deadline."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

# The outcome of an attempt: a response, or the error in its place.
Outcome = httpx2.Response | httpx2.HTTPError

_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 8.0
# Cap on the seconds of a `Retry-After` header.
MAX_RETRY_AFTER_S = 30.0


class RetryBudget:
    """The retries and the time that one call has left.

    Exponential backoff with full jitter: each wait is uniform between 0 and a limit that doubles, so that clients
    that failed together do not retry together.

    Args:
        retries: maximum number of retries.
        timeout_s: time limit of all attempts and waits together.
        clock: monotonic seconds.
        jitter: draws a number between two bounds.
    """

    def __init__(
        self,
        retries: int,
        timeout_s: float,
        clock: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._retries_left = retries
        self._clock = clock
        self._deadline = clock() + timeout_s
        self._jitter = jitter
        self._backoff_s = _FIRST_BACKOFF_S

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 1 ms: libraries may read a timeout of 0 as none."""
        return max(self._deadline - self._clock(), 1e-3)

    def next_wait(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next attempt, or None if the budget is used up."""
        if self._retries_left == 0:
            return None
        wait = self._jitter(0.0, self._backoff_s)
        if isinstance(outcome, httpx2.Response):
            wait += retry_after(outcome.headers.get("retry-after"), datetime.now(UTC))
        if wait >= self._deadline - self._clock():
            return None
        self._retries_left -= 1
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        return wait


def retry_after(header: str | None, now: datetime) -> float:
    """Seconds of a `Retry-After` header, a number or a date, at most `MAX_RETRY_AFTER_S`; 0 if absent or invalid."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
        # HTTP dates are in UTC.
        wait = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), MAX_RETRY_AFTER_S)
