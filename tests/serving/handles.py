"""Replicas in this process, asked as Serve's handles are: what Ray would carry goes straight to them."""

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
    """The only replica of a deployment; one that is None is lost."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Method:
        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if self._replica is None:
                raise ConnectionError("the replica is gone")
            return await getattr(self._replica, name)(*arguments)

        return Method(call)

    def options(self, *, method_name: str, **how: str) -> Method:
        return getattr(self, method_name)

    def broadcast(self, name: str, *arguments: Any) -> Broadcast:
        return Broadcast(getattr(self, name).remote(*arguments))
