"""A limit on what a client may send, whether or not it says how much that is."""

from __future__ import annotations

from typing import Any

from raycol.serving.schema import Problem


class BodyLimit:
    """ASGI middleware: answers 413 once a request's body exceeds `max_bytes`."""

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on once its body is known to be small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The whole body is taken in here, up to the limit, and handed on in one piece.
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                await self._refuse(send)
                return
        handed_on = False

        async def replay() -> Any:
            nonlocal handed_on
            if handed_on:
                return await receive()
            handed_on = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, send: Any) -> None:
        problem = Problem(title="Body too large", status=413, detail=f"the body exceeds {self.max_bytes} bytes")
        content = problem.model_dump_json().encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": content})
