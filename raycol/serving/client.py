"""Asking an endpoint from Python."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
from pydantic import ValidationError

from raycol.errors import InputError, RaycolError
from raycol.serving.schema import SearchResponse


def check_health(url: str, timeout_s: float = 10.0) -> None:
    """Raise `RaycolError` where no raycol endpoint listens at `url`."""
    try:
        with _client(url, timeout_s) as client:
            client.get("/healthz").raise_for_status()
    except httpx2.HTTPError as error:
        raise RaycolError(f"{url}: nothing answers there ({error}); does Serve run on another port here?") from None


def search_endpoint(url: str, queries: Sequence[str], k: int = 10, timeout_s: float = 60.0) -> SearchResponse:
    """Ask a running endpoint for the best `k` documents for each query.

    Args:
        url: where it listens, as `raycol serve` prints it.
        queries: texts.
        k: hits a query.
        timeout_s: how long to wait for the answer.

    Raises:
        InputError: the endpoint refused the request.
        RaycolError: it cannot be reached, or could not answer.
    """
    try:
        with _client(url, timeout_s) as client:
            answer = client.post("/v1/search", json={"queries": list(queries), "k": k})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise RaycolError(f"{url}: no answer ({error}); is the endpoint running?") from None
    if answer.is_success:
        try:
            return SearchResponse.model_validate_json(answer.content)
        except ValidationError:
            raise RaycolError(f"{url}: answered, but not as a raycol endpoint does") from None
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    kind = InputError if answer.status_code < 500 else RaycolError
    raise kind(f"{url}: {answer.status_code}: {detail}")


def _client(url: str, timeout_s: float) -> httpx2.Client:
    """A client that reaches this machine itself, even where the environment names a proxy for the others."""
    ours = httpx2.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return httpx2.Client(base_url=url, timeout=timeout_s, trust_env=not ours)
