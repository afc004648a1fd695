"""ASGI middleware in front of Ray Serve: validates the request id and drops headers that Serve acts on.

Serve reads some headers before the gateway sees the request, and fails with 500 if one is not UTF-8. raycol's Ray
sessions wrap `middlewares` around each of Serve's HTTP servers (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH). Serve's
own processes import this module, so it imports nothing else of raycol.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from starlette.middleware import Middleware

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID = b"x-request-id"
# With these a client could set Serve's timeouts and choose replicas.
_SERVE_HEADERS = {
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-session-id",
    b"serve-multiplexed-model-id",
}
_TRACING = {b"traceparent", b"tracestate"}


def request_id(header: bytes) -> str:
    """The client's request id if it is valid, otherwise a new one."""
    return header.decode() if _ID.fullmatch(header) else secrets.token_hex(8)


class HeaderMiddleware:
    """ASGI middleware around Serve: request and response carry the same valid X-Request-Id, exactly once."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request to Serve with sanitised headers."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        client_id = dict(scope["headers"]).get(_REQUEST_ID, b"")
        id_header = (_REQUEST_ID, request_id(client_id).encode())
        allowed = [(name, value) for name, value in scope["headers"] if _is_harmless(name, value)]

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message["headers"] if name.lower() != _REQUEST_ID]
                message = {**message, "headers": [*others, id_header]}
            await send(message)

        await self.app({**scope, "headers": [*allowed, id_header]}, receive, send_with_id)


def _is_harmless(header: bytes, value: bytes) -> bool:
    name = header.lower().replace(b"_", b"-")
    return name != _REQUEST_ID and name not in _SERVE_HEADERS and (name not in _TRACING or value.isascii())


def middlewares() -> list[Middleware]:
    """The middleware that Serve wraps around its HTTP servers."""
    return [Middleware(HeaderMiddleware)]
