"""The client of an endpoint.

    with raycol.Client("http://127.0.0.1:8000") as client:
        response = client.search("parse a date from a string", k=3)

`calls` builds requests and parses responses; `retry` configures retries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

import httpx2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tenacity import Retrying

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
from raycol.errors import RaycolError
from raycol.index.search.effort import Effort

# Seconds between two tries to reach an endpoint that has just started.
_POLL_S = 0.2

T = TypeVar("T")


class Client(Connection):
    """HTTP client of a running endpoint. Thread-safe; keeps its connections until closed.

    Retries responses 429 and 503 and connection errors, with exponential backoff and full jitter plus the response's
    `Retry-After`, within `timeout_s`. Every method raises:

    - `InputError`: the request is invalid, or the endpoint rejected it.
    - `RaycolError`: the endpoint cannot be reached, timed out, or is overloaded.

    Args:
        url: the endpoint's URL, as `raycol serve` prints it.
        api_key: an API key; by default the environment variable RAYCOL_API_KEY.
        timeout_s: time limit of a call including retries. Reading a response counts as idle time only: a response
            that arrives slowly but steadily may take longer.
        retries: maximum number of retries.
        transport: httpx2 transport, in place of the network.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx2.Client(transport=transport, **self._options)
        self._sleep: Callable[[float], None] = time.sleep

    @named_arguments
    def search(
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
        """Search with one query, several queries, or several encoded queries.

        Args:
            query: one text.
            queries: several texts.
            embeddings: token embeddings of several queries, each [tokens, dim], made by the index's encoder.
            k: hits per query.
            filter: a SQL condition over metadata columns.
            ids: search only these documents.
            effort: search effort.
            timeout_ms: time limit, after which the response is partial.
            allow_partial: accept a response without the documents of shards that failed.
        """
        return self._send(
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
    def rerank(
        self,
        query: str,
        *,
        documents: Iterable[str] | None = None,
        ids: Iterable[str] | None = None,
        k: int | None = None,
        timeout_ms: int | None = None,
        allow_partial: bool = False,
    ) -> RerankResponse:
        """Rerank texts, or documents of the index, by exact MaxSim scores; returns the best `k`, or all."""
        return self._send(calls.rerank(query, documents, ids, k=k, timeout_ms=timeout_ms, allow_partial=allow_partial))

    def embeddings(
        self,
        input: str | Sequence[str],  # noqa: A002
        *,
        is_query: bool = True,
    ) -> list[NDArray[np.float32]]:
        """Token embeddings of each text, float32 [tokens, dim]; a list even for a single text."""
        return self._send(calls.embeddings(input, is_query=is_query))

    def explain(self, query: str, id: str) -> ExplainResponse:  # noqa: A002
        """Explain a score: the document token that each query token matches, with their similarity."""
        return self._send(calls.explain(query, id))

    def document(self, id: str) -> DocumentResponse:  # noqa: A002
        """A document's text and metadata."""
        return self._send(calls.document(id))

    def index(self) -> IndexDescription:
        """Description of the served index."""
        return self._send(calls.index())

    def health(self) -> Health:
        """Health of the gateway; raises if it does not answer."""
        return self._send(calls.health())

    def ready(self) -> Health:
        """Whether every shard and the encoder answer: `status` is "ok" or "not ready". "not ready" is not retried."""
        return self._send(calls.ready())

    def set_version(self, version: int | None, *, timeout_s: float = SWITCH_S) -> VersionResponse:
        """Switch the endpoint to another version, None for the newest. Needs a key of scope admin.

        Not retried once it may have arrived: after an error, `index` returns the served version.
        """
        return self._send(calls.set_version(version), timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T], timeout_s: float | None = None) -> T:
        remaining_s = self._countdown(timeout_s)

        def attempt() -> Outcome:
            try:
                return self._http.request(call.method, call.path, content=call.content, timeout=timeout(remaining_s()))
            except httpx2.HTTPError as error:
                return error

        options = retry_options(call.may_retry, self.retries, remaining_s)
        return read_outcome(self.url, call, Retrying(sleep=self._sleep, **options)(attempt))


def check_health(url: str, wait_s: float = 60.0) -> None:
    """Raise `RaycolError` if no raycol endpoint answers at `url` within some seconds: a proxy learns of it last."""
    deadline = time.monotonic() + wait_s
    with Client(url, timeout_s=10.0) as client:
        while True:
            try:
                client.health()
                return
            except RaycolError as error:
                if time.monotonic() > deadline:
                    raise RaycolError(f"{error}; does Serve listen on another port?") from None
            time.sleep(_POLL_S)


def search_endpoint(url: str, queries: Sequence[str], k: int = 10, timeout_s: float = 60.0) -> SearchResponse:
    """Send one search request with a temporary client; see `Client.search`."""
    with Client(url, timeout_s=timeout_s) as client:
        return client.search(queries=queries, k=k)
