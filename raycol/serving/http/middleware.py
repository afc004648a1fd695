"""What stands before every request: a name for it, a key, room for it, a limit on its body, and a line in the log.

ASGI middleware without Ray or FastAPI, so that nothing of a request is parsed before it is known to be allowed.
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
from typing import Any

from starlette._utils import get_route_path

from raycol.client.schema import MAX_BODY_BYTES, Problem
from raycol.serving import metrics
from raycol.serving.http.headers import request_id

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

# A body that has not come by then is not waited for.
BODY_S = 10.0
# What comes in after a refusal, and for how long, before the connection is closed: to close it while the client
# still sends would reset it, and the answer with it.
_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20
# Of every body so much is read; what goes beyond, of all the bodies that are coming in together, has this limit. So
# however many bodies trickle in, a usual request is read.
_SMALL_BYTES = 64 << 10
_LARGE_BYTES = 256 << 20
_MAX_DIGITS = 19
# A large answer is handed over piece by piece, each when the client has taken those before: so what is not taken is
# no more than one, and the request counts as at work until then. A client has so long, and more for a long answer.
_PIECE_BYTES = 256 << 10
_TAKEN_S = 30.0
_TAKEN_BYTES_S = 128 << 10
# Without a key; the page has nothing of the index in it. The OpenAPI document needs one: it says what can be asked.
_PUBLIC = {"/", "/page.css", "/page.js", "/healthz", "/readyz"}
_UNLIMITED = _PUBLIC | {"/metrics"}
_ADMIN = "/v1/admin/"
# Asked by whatever watches over an endpoint, by any name.
_PROBES = {"/healthz", "/readyz"}
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:]+))(?::\d*)?")
_ANY = "0.0.0.0"  # noqa: S104

log = logging.getLogger("ray.serve")

Scope = Callable[[str | None], str | None]


class Hosts:
    """The names by which an endpoint may be called.

    A page whose own name is made to resolve to this endpoint's address (DNS rebinding) is of the same origin for its
    browser, and could do whatever needs no key; but its name stands in the requests.

    Args:
        bound: the address that the endpoint listens on. Of one that stands for all, any address is a name.
        allowed: more names.
    """

    def __init__(self, bound: str | None, allowed: tuple[str, ...] = ()) -> None:
        known = (*_LOOPBACK_NAMES, *allowed, *([bound] if bound else []))
        self._names = {_name(host) for host in known}
        address = _address(bound or _ANY)
        self._any_address = address is not None and address.is_unspecified

    def allows(self, host: str) -> bool:
        """Whether a `Host` header names this endpoint."""
        name = _name(host)
        address = _address(name)
        if address is not None and (self._any_address or address.is_loopback):
            return True
        return name in self._names


def _name(host: str) -> str:
    """A host without its port, in lower case."""
    host = host.strip().lower()
    if found := _HOST.fullmatch(host):
        host = found[1] or found[2]
    return host.removesuffix(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class GuardSettings:
    """What a guard goes by, for one gateway.

    Args:
        max_requests: at once.
        scope_of: the scope, read or admin, of a presented key; None where no keys are needed.
        cors: origins whose pages may call.
        hosts: what requests may name as their host; None where they may name any.
    """

    def __init__(
        self,
        max_requests: int,
        scope_of: Scope | None = None,
        cors: tuple[str, ...] = (),
        hosts: Hosts | None = None,
    ) -> None:
        self.max_requests = max_requests
        self.scope_of = scope_of
        self.cors = frozenset(cors)
        self.hosts = hosts
        self.in_flight = 0
        self.incoming_bytes = 0

    def check_room(self) -> None:
        """Refuse a request beyond those that can be worked on."""
        if self.in_flight >= self.max_requests:
            raise _busy(f"{self.in_flight} requests are at work; try again")

    def check_space(self) -> None:
        """Refuse a body beyond those that can be held while they come in."""
        if self.incoming_bytes > _LARGE_BYTES:
            raise _busy("too many large bodies are coming in; try again")


class _RefusedError(Exception):
    def __init__(self, status: int, title: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers


def _busy(detail: str) -> _RefusedError:
    metrics.REFUSED.inc()
    return _RefusedError(429, "Too many requests", detail, **{"retry-after": "1"})


class Guard:
    """ASGI middleware. `rules` is set when the gateway starts; until then every request is refused with 503."""

    # Of this process: the application is made before its gateway is.
    rules: GuardSettings | None = None

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        request = _Request(scope, headers, send)
        REQUEST_ID.set(request.id)
        rules = Guard.rules
        held = False
        try:
            if rules is None:
                raise _RefusedError(503, "Not ready", "the gateway is starting")
            _check_host(request, headers, rules)
            request.shared = bool(rules.cors)
            request.origin = _origin(headers, rules)
            if scope["method"] == "OPTIONS" and request.origin:
                await request.preflight()
                return
            _check_key(request, headers, rules)
            _check_page(request, headers, rules)
            limited = request.path not in _UNLIMITED
            if limited:
                rules.check_room()
            body = await _body(headers, receive, rules)
            if body is None:
                return
            if limited:
                # Only now, so that bodies that trickle in take no room from others.
                rules.check_room()
                held = True
                rules.in_flight += 1
                metrics.IN_FLIGHT.set(rules.in_flight)
            await self.app(scope, _replay(body, receive), request.answer)
        except _RefusedError as refused:
            await request.refuse(refused, receive)
        except Exception:
            # Nothing of it in the answer: it may be of the machine rather than of the request.
            log.exception("request %s failed", request.id)
            if request.status:
                raise
            await request.refuse(_RefusedError(500, "Failed", "the request failed here; the log says why"), receive)
        finally:
            if held and rules:
                rules.in_flight -= 1
                metrics.IN_FLIGHT.set(rules.in_flight)
            request.record()


class _Request:
    """One request: its name, what it is answered with, and how long that took."""

    def __init__(self, scope: Any, headers: dict[bytes, bytes], send: Any) -> None:
        self.id = request_id(headers.get(b"x-request-id", b""))
        # As the router sees it: below where the application is mounted.
        self.path = get_route_path(scope)
        self.method = scope["method"]
        self.shared = False
        self.origin: str | None = None
        self.status = 0
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._answered: float | None = None

    async def answer(self, message: Any) -> None:
        """Send on, with the request's name."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        body = message.get("body", b"")
        if len(body) <= _PIECE_BYTES:
            await self._send(message)
            return
        async with asyncio.timeout(_TAKEN_S + len(body) / _TAKEN_BYTES_S):
            for start in range(0, len(body), _PIECE_BYTES):
                await self._send({**message, "body": body[start : start + _PIECE_BYTES], "more_body": True})
            await self._send({**message, "body": b""})

    async def refuse(self, refused: _RefusedError, receive: Any) -> None:
        """Answer with a problem."""
        problem = Problem(
            title=refused.title, status=refused.status, detail=refused.detail, request_id=self.id
        ).model_dump_json()
        content = problem.encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(content)).encode()),
            *((name.encode(), value.encode()) for name, value in refused.headers.items()),
        ]
        # What is left of a body that is not read would be taken for the next request.
        unread = refused.status in (408, 413)
        if unread:
            headers.append((b"connection", b"close"))
        await self.answer({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.answer({"type": "http.response.body", "body": content, "more_body": unread})
        if unread:
            self._answered = time.perf_counter()
            await _linger(receive)
            await self.answer({"type": "http.response.body", "body": b""})

    async def preflight(self) -> None:
        """Tell a browser what an allowed page may send."""
        headers = [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
            (b"access-control-max-age", b"600"),
        ]
        await self.answer({"type": "http.response.start", "status": 204, "headers": headers})
        await self.answer({"type": "http.response.body", "body": b""})

    def record(self) -> None:
        """Count it, and write its line."""
        seconds = (self._answered or time.perf_counter()) - self._started
        # The route's pattern, not the path: a client must not be able to make up ever new series.
        route = self._scope.get("route")
        path = getattr(route, "path", None) or "other"
        metrics.REQUESTS.labels(path, str(self.status)).inc()
        metrics.LATENCY.labels(path).observe(seconds)
        line = {"request": self.id, "method": self.method, "path": self.path[:200], "status": self.status}
        log.info("%s", json.dumps({**line, "ms": round(1000 * seconds, 2)}))

    def _headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff")]
        if self.origin:
            found.append((b"access-control-allow-origin", self.origin.encode()))
        if self.shared:
            found.append((b"vary", b"origin"))
        return found


def _origin(headers: dict[bytes, bytes], rules: GuardSettings) -> str | None:
    origin = headers.get(b"origin", b"").decode("latin-1")
    return origin if origin in rules.cors else None


def _check_host(request: _Request, headers: dict[bytes, bytes], rules: GuardSettings) -> None:
    host = headers.get(b"host", b"").decode("latin-1")
    if not host or rules.hosts is None or request.path in _PROBES or rules.hosts.allows(host):
        return
    detail = (
        f"host {host[:200]!r} is no name of this endpoint; ask it by its address, or add the name to allowed_hosts"
    )
    raise _RefusedError(403, "Forbidden", detail)


def _check_page(request: _Request, headers: dict[bytes, bytes], rules: GuardSettings) -> None:
    """Without keys, keep pages of other origins from what administrators do: a browser sends some of it unasked."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if rules.scope_of is not None or not request.path.startswith(_ADMIN) or not origin or request.origin:
        return
    if origin.partition("://")[2].lower() != headers.get(b"host", b"").decode("latin-1").lower():
        raise _RefusedError(403, "Forbidden", "pages of other origins may not do this; cors names those that may")


def _check_key(request: _Request, headers: dict[bytes, bytes], rules: GuardSettings) -> None:
    if rules.scope_of is None or (request.path in _PUBLIC and request.method in ("GET", "HEAD")):
        return
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    scope = rules.scope_of(key.strip() if kind.lower() == "bearer" else None)
    if scope is None:
        metrics.UNAUTHORISED.inc()
        detail = "give a key of this endpoint as 'Authorization: Bearer KEY'"
        raise _RefusedError(401, "Unauthorised", detail, **{"www-authenticate": "Bearer"})
    if request.path.startswith(_ADMIN) and scope != "admin":
        metrics.UNAUTHORISED.inc()
        raise _RefusedError(403, "Forbidden", "this needs a key of scope admin")


async def _body(headers: dict[bytes, bytes], receive: Any, rules: GuardSettings) -> bytes | None:
    """The whole body, up to the limit; None where the client went away."""
    too_large = _RefusedError(413, "Body too large", f"the body exceeds {MAX_BODY_BYTES} bytes")
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
                rules.incoming_bytes += large - counted
                counted = large
                if more and large:
                    rules.check_space()
    except TimeoutError:
        raise _RefusedError(408, "Body too slow", f"the body was not there after {BODY_S:g} s") from None
    finally:
        rules.incoming_bytes -= counted
    return bytes(body)


async def _linger(receive: Any) -> None:
    """Read on, and forget, until the client is done or has had its time."""
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
    handed_on = False

    async def replay() -> Any:
        nonlocal handed_on
        if handed_on:
            return await receive()
        handed_on = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
