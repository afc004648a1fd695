"""Retries of a call, by tenacity: number, backoff, `Retry-After` and deadline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from tenacity import retry_if_result, wait_combine, wait_random_exponential

# The outcome of an attempt: a response, or the error in its place.
Outcome = httpx2.Response | httpx2.HTTPError

_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 8.0
# Cap on the seconds of a `Retry-After` header.
MAX_RETRY_AFTER_S = 30.0


def retry_options(
    may_retry: Callable[[Outcome], bool], retries: int, remaining_s: Callable[[], float]
) -> dict[str, Any]:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`, with which these return the last outcome.

    Args:
        may_retry: whether the call may be sent again after an outcome.
        retries: maximum number of retries.
        remaining_s: returns the seconds left for all attempts and waits together.
    """
    return {
        "retry": retry_if_result(may_retry),
        # Full jitter: clients that failed together do not retry together.
        "wait": wait_combine(wait_random_exponential(_FIRST_BACKOFF_S, _MAX_BACKOFF_S), _wait_retry_after),
        # Not `stop_before_delay`: each attempt takes its timeout from the same deadline.
        "stop": lambda state: state.attempt_number > retries or state.upcoming_sleep >= remaining_s(),
        "retry_error_callback": lambda state: state.outcome.result(),
    }


def _wait_retry_after(retry_state: Any) -> float:
    outcome = retry_state.outcome.result()
    is_response = isinstance(outcome, httpx2.Response)
    return retry_after(outcome.headers.get("retry-after"), datetime.now(UTC)) if is_response else 0.0


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
