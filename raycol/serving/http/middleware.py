"""ASGI middleware: request id, CORS, authentication, admission control, body limit, access log.

It uses neither Ray nor FastAPI: nothing parses a request before it is admitted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from starlette._utils import get_route_path
from starlette.middleware.cors import CORSMiddleware

from raycol.client.schema import MAX_BODY_BYTES, Problem
from raycol.serving import metrics
from raycol.serving.http.headers import request_id
from raycol.serving.http.page import PAGE_PATHS

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

# Time limit for receiving a body.
BODY_S = 10.0
# After a rejection, read and discard the body for this long before closing: closing while the client still sends
# resets the connection, and the client never reads the response.
_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20
# The first 64 KB of each body are free; the rest of all bodies being received shares one limit. Small requests are
# therefore read even while many large bodies trickle in.
_SMALL_BYTES = 64 << 10
_LARGE_BYTES = 256 << 20
_MAX_DIGITS = 19
# Send a large response in chunks, each once the client has taken the previous one: at most one chunk is buffered, and
# the request counts as in flight until the end. Time limit: 30 s, plus 1 s per 128 KB.
_CHUNK_BYTES = 256 << 10
_SEND_S = 30.0
_SEND_BYTES_PER_S = 128 << 10
# Paths that need no key: the pages contain no index data, and /docs leads to one. The OpenAPI document needs one.
_PUBLIC = {*PAGE_PATHS, "/docs", "/healthz", "/readyz"}
_UNLIMITED = _PUBLIC | {"/metrics"}
_ADMIN = "/v1/admin/"
# Health checks may use any host name.
_HEALTH_CHECKS = {"/healthz", "/readyz"}
_CORS_METHODS = ("GET", "POST")
_CORS_HEADERS = ("authorization", "content-type", "x-request-id")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:]+))(?::\d*)?")
_ANY = "0.0.0.0"  # noqa: S104

log = logging.getLogger("ray.serve")

ScopeOf = Callable[[str | None], str | None]


class Hosts:
    """The host names that requests may use.

    Protects against DNS rebinding: a page whose name resolves to this endpoint's address is same-origin for its
    browser, but the `Host` header carries the page's name.

    Args:
        bound: the address that the endpoint listens on; a wildcard address allows every IP address.
        allowed: additional names.
    """

    def __init__(self, bound: str | None, allowed: tuple[str, ...] = ()) -> None:
        names = (*_LOOPBACK_NAMES, *allowed, *([bound] if bound else []))
        self._names = {_host_name(host) for host in names}
        address = _address(bound or _ANY)
        self._any_address = address is not None and address.is_unspecified

    def allows(self, host: str) -> bool:
        """Whether a `Host` header names this endpoint."""
        name = _host_name(host)
        address = _address(name)
        if address is not None and (self._any_address or address.is_loopback):
            return True
        return name in self._names


def _host_name(host: str) -> str:
    """A host in lower case, without its port."""
    host = host.strip().lower()
    if match := _HOST.fullmatch(host):
        host = match[1] or match[2]
    return host.removesuffix(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class GuardSettings:
    """Settings and load counters of a gateway's `Guard`.

    Args:
        max_requests: concurrent requests.
        scope_of: returns the scope of a key, "read" or "admin"; None disables authentication.
        cors: origins whose pages may call the endpoint.
        hosts: allowed `Host` headers; None allows all.
    """

    def __init__(
        self,
        max_requests: int,
        scope_of: ScopeOf | None = None,
        cors: tuple[str, ...] = (),
        hosts: Hosts | None = None,
    ) -> None:
        self.max_requests = max_requests
        self.scope_of = scope_of
        self.cors = frozenset(cors)
        self.hosts = hosts
        self.in_flight = 0
        self.incoming_bytes = 0

    def check_capacity(self) -> None:
        """Reject a request if `max_requests` are in flight."""
        if self.in_flight >= self.max_requests:
            raise _busy(f"{self.in_flight} requests are in flight; try again")

    def check_body_capacity(self) -> None:
        """Reject a large body if those being received exceed the limit."""
        if self.incoming_bytes > _LARGE_BYTES:
            raise _busy("too many large bodies are being received; try again")


class _RejectedError(Exception):
    def __init__(self, status: int, title: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers


def _busy(detail: str) -> _RejectedError:
    metrics.REFUSED.inc()
    return _RejectedError(429, "Too many requests", detail, **{"retry-after": "1"})


class Guard:
    """ASGI middleware. The gateway sets `settings` when it starts; until then every request gets a 503."""

    # Shared by the process: Serve builds the application before the gateway.
    settings: GuardSettings | None = None

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request to the application, or reject it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, send)
        REQUEST_ID.set(request.id)
        admission: Any = partial(self._admit, request, Guard.settings)
        if Guard.settings and Guard.settings.cors:
            # Around the admission: a page must be able to read why its request is rejected.
            admission = CORSMiddleware(
                admission, Guard.settings.cors, allow_methods=_CORS_METHODS, allow_headers=_CORS_HEADERS
            )
        try:
            await admission(scope, receive, request.send)
        finally:
            request.record()

    async def _admit(
        self, request: _Request, settings: GuardSettings | None, scope: Any, receive: Any, send: Any
    ) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        admitted = False
        try:
            if settings is None:
                raise _RejectedError(503, "Not ready", "the gateway is starting")
            _check_host(request, headers, settings)
            _check_key(request, headers, settings)
            _check_origin(request, headers, settings)
            limited = request.path not in _UNLIMITED
            if limited:
                settings.check_capacity()
            body = await _read_body(headers, receive, settings)
            if body is None:
                return
            if limited:
                # Admit after reading the body: slow senders must not use up the capacity.
                settings.check_capacity()
                admitted = True
                settings.in_flight += 1
                metrics.IN_FLIGHT.set(settings.in_flight)
            await self.app(scope, _replay(body, receive), send)
        except _RejectedError as error:
            await request.reject(error, receive, send)
        except Exception:
            # The response does not include the error, which may describe this machine.
            log.exception("request %s failed", request.id)
            if request.status:
                raise
            await request.reject(_RejectedError(500, "Failed", "internal error; see the gateway's log"), receive, send)
        finally:
            if admitted and settings:
                settings.in_flight -= 1
                metrics.IN_FLIGHT.set(settings.in_flight)


class _Request:
    """One request: its id, its response, and its latency."""

    def __init__(self, scope: Any, send: Any) -> None:
        self.id = request_id(dict(scope["headers"]).get(b"x-request-id", b""))
        # As the router sees it, relative to the mount point.
        self.path = get_route_path(scope)
        self.method = scope["method"]
        self.status = 0
        self._scope = scope
        self._send = send
        self._headers = [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff")]
        self._started = time.perf_counter()
        self._responded: float | None = None

    async def send(self, message: Any) -> None:
        """Send a message of the response, with our headers and in chunks."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers]}
        body = message.get("body", b"")
        if len(body) <= _CHUNK_BYTES:
            await self._send(message)
            return
        async with asyncio.timeout(_SEND_S + len(body) / _SEND_BYTES_PER_S):
            for start in range(0, len(body), _CHUNK_BYTES):
                await self._send({**message, "body": body[start : start + _CHUNK_BYTES], "more_body": True})
            await self._send({**message, "body": b""})

    async def reject(self, error: _RejectedError, receive: Any, send: Any) -> None:
        """Respond with problem+json."""
        problem = Problem(
            title=error.title, status=error.status, detail=error.detail, request_id=self.id
        ).model_dump_json()
        content = problem.encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(content)).encode()),
            *((name.encode(), value.encode()) for name, value in error.headers.items()),
        ]
        # The server would parse the unread rest of the body as the next request.
        unread = error.status in (408, 413)
        if unread:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": unread})
        if unread:
            self._responded = time.perf_counter()
            await _linger(receive)
            await send({"type": "http.response.body", "body": b""})

    def record(self) -> None:
        """Update the metrics and write the access log."""
        seconds = (self._responded or time.perf_counter()) - self._started
        # Label with the route pattern, not the path: clients must not be able to create time series.
        route = self._scope.get("route")
        path = getattr(route, "path", None) or "other"
        metrics.REQUESTS.labels(path, str(self.status)).inc()
        metrics.LATENCY.labels(path).observe(seconds)
        line = {"request": self.id, "method": self.method, "path": self.path[:200], "status": self.status}
        log.info("%s", json.dumps({**line, "ms": round(1000 * seconds, 2)}))


def _check_host(request: _Request, headers: dict[bytes, bytes], settings: GuardSettings) -> None:
    host = headers.get(b"host", b"").decode("latin-1")
    if not host or settings.hosts is None or request.path in _HEALTH_CHECKS or settings.hosts.allows(host):
        return
    detail = f"host {host[:200]!r} is not allowed; use the endpoint's address, or add the name to allowed_hosts"
    raise _RejectedError(403, "Forbidden", detail)


def _check_origin(request: _Request, headers: dict[bytes, bytes], settings: GuardSettings) -> None:
    """Without keys, reject admin requests of cross-origin pages: browsers send simple POSTs without a preflight."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if settings.scope_of is not None or not request.path.startswith(_ADMIN) or not origin or origin in settings.cors:
        return
    if origin.partition("://")[2].lower() != headers.get(b"host", b"").decode("latin-1").lower():
        raise _RejectedError(403, "Forbidden", f"origin {origin[:200]!r} is not allowed; add it to cors")


def _check_key(request: _Request, headers: dict[bytes, bytes], settings: GuardSettings) -> None:
    if settings.scope_of is None or (request.path in _PUBLIC and request.method in ("GET", "HEAD")):
        return
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    scope = settings.scope_of(key.strip() if kind.lower() == "bearer" else None)
    if scope is None:
        metrics.UNAUTHORISED.inc()
        detail = "missing or unknown API key; send one as 'Authorization: Bearer KEY'"
        raise _RejectedError(401, "Unauthorised", detail, **{"www-authenticate": "Bearer"})
    if request.path.startswith(_ADMIN) and scope != "admin":
        metrics.UNAUTHORISED.inc()
        raise _RejectedError(403, "Forbidden", "this path needs a key of scope admin")


async def _read_body(headers: dict[bytes, bytes], receive: Any, settings: GuardSettings) -> bytes | None:
    """The whole body, or None if the client disconnected.

    Raises:
        _RejectedError: the body is too large or too slow, or too many large bodies are being received.
    """
    too_large = _RejectedError(413, "Body too large", f"the body exceeds {MAX_BODY_BYTES} bytes")
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > MAX_BODY_BYTES):
        raise too_large
    body = bytearray()
    counted = 0
    more = True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
                large = max(0, len(body) - _SMALL_BYTES)
                settings.incoming_bytes += large - counted
                counted = large
                if more and large:
                    settings.check_body_capacity()
    except TimeoutError:
        raise _RejectedError(408, "Body too slow", f"the body did not arrive within {BODY_S:g} s") from None
    finally:
        settings.incoming_bytes -= counted
    return bytes(body)


async def _linger(receive: Any) -> None:
    """Read and discard the rest of a body, up to a time and size limit."""
    read = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while read < _LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return


def _replay(body: bytes, receive: Any) -> Any:
    """An ASGI `receive` that returns the body first."""
    replayed = False

    async def replay() -> Any:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
