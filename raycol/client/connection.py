"""Where an endpoint is, the key to it, and how long to try: what both clients are made with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import httpx2

from raycol.client.retry import Tries
from raycol.errors import InputError

API_KEY = "RAYCOL_API_KEY"
# Every replica opens a version before the endpoint answers that it is served.
SWITCH_S = 600.0

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
# Where nothing is connected to by then, time is left to try again.
_CONNECT_S = 10.0


class Connection:
    """What both clients know. Their settings are documented at `Client`."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int) -> None:
        if not timeout_s > 0:
            raise InputError(f"timeout_s is {timeout_s}; expected seconds above 0")
        if retries < 0:
            raise InputError(f"retries is {retries}; expected 0 or more")
        self.url = url
        self.timeout_s = timeout_s
        self.retries = retries
        self._host = _host(url)
        self._key = _checked(os.environ.get(API_KEY) if api_key is None else api_key)
        self._clock: Callable[[], float] = time.monotonic

    @property
    def _options(self) -> dict[str, Any]:
        """What the clients of httpx2 are made with."""
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        # This machine itself is reached even where the environment names a proxy for the others.
        return {"base_url": self.url, "headers": headers, "trust_env": self._host not in _THIS_MACHINE}

    def _tries(self, timeout_s: float | None) -> Tries:
        return Tries(self.retries, self.timeout_s if timeout_s is None else timeout_s, self._clock)


def timeout(tries: Tries) -> httpx2.Timeout:
    """What one try may take."""
    left_s = tries.left_s
    return httpx2.Timeout(left_s, connect=min(left_s, _CONNECT_S))


def _host(url: str) -> str:
    """The host of an endpoint's address. Raises `InputError` where it is none."""
    try:
        parsed = httpx2.URL(url)
        parsed.host.encode("idna")  # as the system's resolver will
    except (httpx2.InvalidURL, TypeError, UnicodeError):
        raise InputError(f"{url!r} is no address; expected one such as http://127.0.0.1:8000") from None
    if parsed.userinfo:
        raise InputError(f"{parsed.host}: a name or password in an address; give a key as api_key, or in {API_KEY}")
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 80) < 1 << 16:
        raise InputError(f"{url!r} is no address; expected one such as http://127.0.0.1:8000")
    return parsed.host


def _checked(key: str | None) -> str | None:
    """A key that can stand in a header; the message does not repeat it."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError("the API key holds characters that no key has; was it copied whole?")
    return key or None
