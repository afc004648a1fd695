"""The async client of an endpoint.

    async with raycol.AsyncClient("http://127.0.0.1:8000") as client:
        response = await client.search("parse a date from a string", k=3)

`calls` builds requests and parses responses; `retry` configures retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Self, TypeVar

import httpx2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tenacity import AsyncRetrying

from raycol.client import calls
from raycol.client.calls import Call, read_outcome
from raycol.client.connection import SWITCH_S, Connection, timeout
from raycol.client.retry import Outcome, retry_options
from raycol.client.schema import (
    DocumentResponse,
    ExplainResponse,
    Health,
    IndexDescription,
    RerankResponse,
    SearchResponse,
    VersionResponse,
)
from raycol.core.arguments import named_arguments
from raycol.index.search.effort import Effort

T = TypeVar("T")


class AsyncClient(Connection):
    """`Client` for asyncio: the same arguments, methods and errors; every method is a coroutine."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx2.AsyncClient(transport=transport, **self._options)
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @named_arguments
    async def search(
        self,
        query: str | None = None,
        *,
        queries: Iterable[str] | None = None,
        embeddings: Iterable[ArrayLike] | None = None,
        k: int = 10,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        effort: Effort = "default",
        timeout_ms: int | None = None,
        allow_partial: bool = True,
    ) -> SearchResponse:
        """As `Client.search`."""
        return await self._send(
            calls.search(
                query,
                queries,
                embeddings,
                k=k,
                filter=filter,
                ids=ids,
                effort=effort,
                timeout_ms=timeout_ms,
                allow_partial=allow_partial,
            )
        )

    @named_arguments
    async def rerank(
        self,
        query: str,
        *,
        documents: Iterable[str] | None = None,
        ids: Iterable[str] | None = None,
        k: int | None = None,
        timeout_ms: int | None = None,
        allow_partial: bool = False,
    ) -> RerankResponse:
        """As `Client.rerank`."""
        return await self._send(
            calls.rerank(query, documents, ids, k=k, timeout_ms=timeout_ms, allow_partial=allow_partial)
        )

    async def embeddings(
        self,
        input: str | Sequence[str],  # noqa: A002
        *,
        is_query: bool = True,
    ) -> list[NDArray[np.float32]]:
        """As `Client.embeddings`."""
        return await self._send(calls.embeddings(input, is_query=is_query))

    async def explain(self, query: str, id: str) -> ExplainResponse:  # noqa: A002
        """As `Client.explain`."""
        return await self._send(calls.explain(query, id))

    async def document(self, id: str) -> DocumentResponse:  # noqa: A002
        """As `Client.document`."""
        return await self._send(calls.document(id))

    async def index(self) -> IndexDescription:
        """As `Client.index`."""
        return await self._send(calls.index())

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._send(calls.health())

    async def ready(self) -> Health:
        """As `Client.ready`."""
        return await self._send(calls.ready())

    async def set_version(self, version: int | None, *, timeout_s: float = SWITCH_S) -> VersionResponse:
        """As `Client.set_version`."""
        return await self._send(calls.set_version(version), timeout_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: Call[T], timeout_s: float | None = None) -> T:
        remaining_s = self._countdown(timeout_s)

        async def attempt() -> Outcome:
            try:
                return await self._http.request(
                    call.method, call.path, content=call.content, timeout=timeout(remaining_s())
                )
            except httpx2.HTTPError as error:
                return error

        options = retry_options(call.may_retry, self.retries, remaining_s)
        return read_outcome(self.url, call, await AsyncRetrying(sleep=self._sleep, **options)(attempt))
