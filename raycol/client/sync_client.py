"""Asking an endpoint from Python.

    with raycol.Client("http://127.0.0.1:8000") as client:
        answer = client.search("parse a date from a string", k=3)

What is sent and how it is read is in `calls`, when it is tried again in `tries`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

import httpx2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from raycol.client import calls
from raycol.client.calls import Call, read_outcome
from raycol.client.connection import SWITCH_S, Connection, timeout
from raycol.client.retry import Outcome
from raycol.client.schema import (
    DocumentResponse,
    ExplainResponse,
    Health,
    IndexDescription,
    RerankResponse,
    SearchResponse,
    VersionResponse,
)
from raycol.errors import RaycolError
from raycol.index.search.effort import Effort

T = TypeVar("T")


class Client(Connection):
    """Asks a running endpoint. One client serves any number of threads, and keeps its connections until closed.

    What an endpoint cannot take now (429, 503) and what does not reach it is tried again, after waits that grow at
    random or that the endpoint asks for, as long as `timeout_s` allows. Every method raises:

    - `InputError`: the endpoint refused the request, or it cannot be sent.
    - `RaycolError`: the endpoint cannot be reached, could not answer in time, or has too much to do.

    Args:
        url: where it listens, as `raycol serve` prints it.
        api_key: one of its keys; by default what the environment variable RAYCOL_API_KEY holds, if anything.
        timeout_s: for a call with all its tries: until it is answered, or the answer stops coming in. Only one that
            comes in drips takes longer.
        retries: tries after the first.
        transport: how httpx2 sends, in place of HTTP over the network.
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
        """The best documents for one query, several, or several that are encoded already.

        Args:
            query: a text.
            queries: texts.
            embeddings: for each query an array [tokens, dim], as the index's encoder makes it.
            k: hits a query.
            filter: a SQL condition over metadata columns.
            ids: only these documents.
            effort: how hard to look.
            timeout_ms: when the endpoint is to answer with what there is.
            allow_partial: whether the answer may lack the documents of shards that do not answer.
        """
        return self._ask(
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
        """Texts, or documents of the index, by their exact scores; the best `k` of them or all."""
        return self._ask(calls.rerank(query, documents, ids, k=k, timeout_ms=timeout_ms, allow_partial=allow_partial))

    def embeddings(
        self,
        input: str | Sequence[str],  # noqa: A002
        *,
        is_query: bool = True,
    ) -> list[NDArray[np.float32]]:
        """For each text its token embeddings, [tokens, dim]; also of one text a list."""
        return self._ask(calls.embeddings(input, is_query=is_query))

    def explain(self, query: str, id: str) -> ExplainResponse:  # noqa: A002
        """Which tokens of a document matched which of a query, and with what scores."""
        return self._ask(calls.explain(query, id))

    def document(self, id: str) -> DocumentResponse:  # noqa: A002
        """What the index keeps of a document."""
        return self._ask(calls.document(id))

    def index(self) -> IndexDescription:
        """What is served."""
        return self._ask(calls.index())

    def health(self) -> Health:
        """Whether the endpoint answers."""
        return self._ask(calls.health())

    def ready(self) -> Health:
        """Whether every shard and the encoder answer; `status` says it, and a "not ready" is not asked again."""
        return self._ask(calls.ready())

    def set_version(self, version: int | None, *, timeout_s: float = SWITCH_S) -> VersionResponse:
        """Have the endpoint serve another version; None is the newest. Needs a key of scope admin.

        Never sent again where it may have arrived: after an error, `index` says what is served.
        """
        return self._ask(calls.set_version(version), timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[T], timeout_s: float | None = None) -> T:
        tries = self._tries(timeout_s)
        while True:
            outcome: Outcome
            try:
                outcome = self._http.request(call.method, call.path, content=call.content, timeout=timeout(tries))
            except httpx2.HTTPError as error:
                outcome = error
            wait = tries.next_wait(outcome) if call.may_repeat(outcome) else None
            if wait is None:
                return read_outcome(self.url, call, outcome)
            self._sleep(wait)


def check_health(url: str, timeout_s: float = 10.0) -> None:
    """Raise `RaycolError` where no raycol endpoint listens at `url`."""
    with Client(url, timeout_s=timeout_s) as client:
        try:
            client.health()
        except RaycolError as error:
            raise RaycolError(f"{error}; does Serve run on another port here?") from None


def search_endpoint(url: str, queries: Sequence[str], k: int = 10, timeout_s: float = 60.0) -> SearchResponse:
    """Ask a running endpoint once; `Client.search` says how."""
    with Client(url, timeout_s=timeout_s) as client:
        return client.search(queries=queries, k=k)
