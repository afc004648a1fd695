"""What stands before Ray Serve itself: a request's name made sane, and no headers that Serve would act on.

Serve reads a few headers before the gateway has the request, and fails with 500 where one of them is not UTF-8. A
session of raycol's has `middlewares` wrapped around every HTTP server of Serve's
(RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH). Imports nothing else: this runs in Serve's own processes too.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from starlette.middleware import Middleware

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID = b"x-request-id"
# By these a client could set Serve's timeouts and choose among replicas; an endpoint has its own ways.
_OF_SERVE = {
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-session-id",
    b"serve-multiplexed-model-id",
}
_TRACING = {b"traceparent", b"tracestate"}


def request_id(given: bytes) -> str:
    """The name that a request is given, if it is a sane one; otherwise a new one."""
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


class Headers:
    """ASGI middleware around Serve: a request has one sane X-Request-Id, and its answer the same one, once."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_REQUEST_ID, b"")
        name = (_REQUEST_ID, request_id(given).encode())
        kept = [(header, value) for header, value in scope["headers"] if _is_harmless(header, value)]

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                others = [(header, value) for header, value in message["headers"] if header.lower() != _REQUEST_ID]
                message = {**message, "headers": [*others, name]}
            await send(message)

        await self.app({**scope, "headers": [*kept, name]}, receive, answer)


def _is_harmless(header: bytes, value: bytes) -> bool:
    name = header.lower().replace(b"_", b"-")
    return name != _REQUEST_ID and name not in _OF_SERVE and (name not in _TRACING or value.isascii())


def middlewares() -> list[Middleware]:
    """What Serve is told to wrap around its HTTP servers."""
    return [Middleware(Headers)]
