"""Connection settings of both clients: URL, API key, timeout and retries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import httpx2

from raycol.errors import InputError

API_KEY = "RAYCOL_API_KEY"
# Default timeout of a version switch: the endpoint responds once every replica has opened the version.
SWITCH_S = 600.0

_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
# Connect timeout, shorter than the call's to leave time for a retry.
_CONNECT_S = 10.0


class Connection:
    """Base class of both clients. `Client` documents the settings."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int) -> None:
        if not timeout_s > 0:
            raise InputError(f"timeout_s is {timeout_s}; expected seconds above 0")
        if retries < 0:
            raise InputError(f"retries is {retries}; expected 0 or more")
        self.url = url
        self.timeout_s = timeout_s
        self.retries = retries
        self._host = _host(url)
        self._key = _checked_key(os.environ.get(API_KEY) if api_key is None else api_key)
        self._clock: Callable[[], float] = time.monotonic

    @property
    def _options(self) -> dict[str, Any]:
        """Arguments of httpx2's clients."""
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        # Do not use the environment's proxy for this machine.
        return {"base_url": self.url, "headers": headers, "trust_env": self._host not in _LOOPBACK_HOSTS}

    def _countdown(self, timeout_s: float | None) -> Callable[[], float]:
        """Start the time limit of a call; the function returns the seconds left."""
        end = self._clock() + (self.timeout_s if timeout_s is None else timeout_s)
        return lambda: end - self._clock()


def timeout(remaining_s: float) -> httpx2.Timeout:
    """Timeout of one attempt: the rest of the call's, and at most 10 s to connect."""
    remaining_s = max(remaining_s, 1e-3)  # libraries may read a timeout of 0 as none
    return httpx2.Timeout(remaining_s, connect=min(remaining_s, _CONNECT_S))


def _host(url: str) -> str:
    """The host of an endpoint's URL. Raises `InputError` if the URL is invalid."""
    try:
        parsed = httpx2.URL(url)
        parsed.host.encode("idna")  # as the system's resolver will
    except (httpx2.InvalidURL, TypeError, UnicodeError):
        raise InputError(f"{url!r} is not a URL of an endpoint; expected one such as http://127.0.0.1:8000") from None
    if parsed.userinfo:
        raise InputError(f"{parsed.host}: user name or password in the URL; pass a key as api_key or in {API_KEY}")
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 80) < 1 << 16:
        raise InputError(f"{url!r} is not a URL of an endpoint; expected one such as http://127.0.0.1:8000")
    return parsed.host


def _checked_key(key: str | None) -> str | None:
    """A key that is valid in a header, or None. The error message does not repeat it."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError("the API key has invalid characters; expected printable ASCII without spaces")
    return key or None
