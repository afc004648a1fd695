"""In-process stand-ins for Serve's deployment handles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Method:
    def __init__(self, bound: Callable[..., Any]) -> None:
        self._bound = bound

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._bound(*arguments))


class Broadcast:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def results_async(self) -> list[Any]:
        return [await self._answer]


class Handle:
    """Handle of a deployment's only replica; None for a lost replica."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Method:
        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if self._replica is None:
                raise ConnectionError("the replica is lost")
            return await getattr(self._replica, name)(*arguments)

        return Method(call)

    def options(self, *, method_name: str, **how: str) -> Method:
        return getattr(self, method_name)

    def broadcast(self, name: str, *arguments: Any) -> Broadcast:
        return Broadcast(getattr(self, name).remote(*arguments))
