"""Requests and response parsing of each client method, without I/O.

The limits of `schema` are not checked here: the endpoint checks them and returns the reason.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from raycol.client.retry import Outcome
from raycol.client.schema import (
    MAX_ID_CHARACTERS,
    DocumentResponse,
    EmbeddingsResponse,
    ExplainResponse,
    Health,
    IndexDescription,
    PackedEmbeddings,
    PackedQuery,
    RerankResponse,
    SearchResponse,
    VersionResponse,
)
from raycol.errors import InputError, RaycolError
from raycol.index.search.effort import Effort

T = TypeVar("T")

# Statuses of an endpoint that is overloaded or unavailable; worth a retry.
_BUSY = frozenset({429, 503})
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
_LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError)
_DETAIL_CHARACTERS = 500
_UNPAIRED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to an endpoint.

    Args:
        method: HTTP method.
        path: percent-encoded path.
        parse: parses a response body; raises `ValueError` if it is invalid.
        content: JSON body.
        once: do not retry once the request may have arrived.
        parsed_statuses: error statuses whose body `parse` accepts, too.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    content: bytes | None = None
    once: bool = False
    parsed_statuses: frozenset[int] = frozenset()

    def may_retry(self, outcome: Outcome) -> bool:
        """Whether the call may be sent again after this outcome."""
        if isinstance(outcome, _NEVER_SENT):
            return True
        if self.once:
            return False
        if isinstance(outcome, httpx2.Response):
            return outcome.status_code in _BUSY - self.parsed_statuses
        return isinstance(outcome, _LOST)


def search(
    query: str | None,
    queries: Iterable[str] | None,
    embeddings: Iterable[ArrayLike] | None,
    *,
    k: int,
    filter: str | None,  # noqa: A002
    ids: Iterable[str] | None,
    effort: Effort,
    timeout_ms: int | None,
    allow_partial: bool,
) -> Call[SearchResponse]:
    """`POST /v1/search`."""
    body = {
        "query": query,
        "queries": _texts("queries", queries),
        "embeddings": None
        if embeddings is None
        else [pack(array, f"embeddings {number}").model_dump() for number, array in enumerate(embeddings)],
        "k": k,
        "filter": filter,
        "ids": _texts("ids", ids),
        "effort": effort,
        "timeout_ms": timeout_ms,
        "allow_partial": allow_partial,
    }
    return Call("POST", "/v1/search", SearchResponse.model_validate_json, _json(body))


def rerank(
    query: str,
    documents: Iterable[str] | None,
    ids: Iterable[str] | None,
    *,
    k: int | None,
    timeout_ms: int | None,
    allow_partial: bool,
) -> Call[RerankResponse]:
    """`POST /v1/rerank`."""
    body = {
        "query": query,
        "documents": _texts("documents", documents),
        "ids": _texts("ids", ids),
        "k": k,
        "timeout_ms": timeout_ms,
        "allow_partial": allow_partial,
    }
    return Call("POST", "/v1/rerank", RerankResponse.model_validate_json, _json(body))


def embeddings(texts: str | Sequence[str], *, is_query: bool) -> Call[list[NDArray[np.float32]]]:
    """`POST /v1/embeddings`."""
    body = {"input": texts if isinstance(texts, str) else list(texts), "is_query": is_query, "packed": True}
    return Call("POST", "/v1/embeddings", _parse_embeddings, _json(body))


def explain(query: str, id_: str) -> Call[ExplainResponse]:
    """`POST /v1/explain`."""
    return Call("POST", "/v1/explain", ExplainResponse.model_validate_json, _json({"query": query, "id": id_}))


def document(id_: str) -> Call[DocumentResponse]:
    """`GET /v1/documents/{id}`. Raises `InputError` if the id is invalid."""
    if not 0 < len(id_) <= MAX_ID_CHARACTERS:
        raise InputError(f"id of {len(id_)} characters; expected 1 to {MAX_ID_CHARACTERS}")
    try:
        quoted = quote(id_, safe="")
    except UnicodeEncodeError:
        raise InputError(f"{id_!r} is not a valid id: it contains a lone surrogate") from None
    # "." and ".." are path segments: quote their dots.
    path = quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
    return Call("GET", f"/v1/documents/{path}", DocumentResponse.model_validate_json)


def index() -> Call[IndexDescription]:
    """`GET /v1/index`."""
    return Call("GET", "/v1/index", IndexDescription.model_validate_json)


def health() -> Call[Health]:
    """`GET /healthz`."""
    return Call("GET", "/healthz", Health.model_validate_json)


def ready() -> Call[Health]:
    """`GET /readyz`; a 503 has a `Health` body, too."""
    return Call("GET", "/readyz", Health.model_validate_json, parsed_statuses=frozenset({503}))


def set_version(version: int | None) -> Call[VersionResponse]:
    """`POST /v1/admin/version`."""
    # A retry could undo another administrator's switch.
    content = json.dumps({"version": version}).encode()
    return Call("POST", "/v1/admin/version", VersionResponse.model_validate_json, content, once=True)


def pack(array: ArrayLike, name: str) -> PackedQuery:
    """Pack the token embeddings of one query, [tokens, dim]. Raises `InputError` with `name`."""
    try:
        with np.errstate(over="ignore"):  # becomes infinite, and is rejected below
            packed = np.asarray(array, dtype="<f4")
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: not an array of numbers ({error})") from None
    if packed.ndim != 2:
        raise InputError(f"{name}: an array of shape {packed.shape}; expected [tokens, dim] for each query")
    if not np.isfinite(packed).all():
        raise InputError(f"{name}: values are not finite in float32")
    try:
        return PackedQuery(tokens=len(packed), data=base64.b64encode(packed.tobytes()).decode())
    except ValidationError as error:
        raise InputError(f"{name}: an array of shape {packed.shape}: {error.errors()[0]['msg']}") from None


def read_outcome(url: str, call: Call[T], outcome: Outcome) -> T:
    """The result of a call, given the outcome of its last attempt.

    Raises:
        InputError: the endpoint rejected the request.
        RaycolError: the endpoint cannot be reached, failed, or is overloaded.
    """
    if isinstance(outcome, httpx2.TimeoutException):
        raise RaycolError(f"{url}: timed out ({_reason(outcome)}); is the endpoint running?") from outcome
    if isinstance(outcome, Exception):
        raise RaycolError(f"{url}: no response ({_reason(outcome)}); is the endpoint running?") from outcome
    status = outcome.status_code
    if outcome.is_success or status in call.parsed_statuses:
        try:
            return call.parse(outcome.content)
        except ValueError:
            if outcome.is_success:
                raise RaycolError(f"{url}: not the response of a raycol endpoint; check the URL") from None
    kind = InputError if 400 <= status < 500 and status not in _BUSY else RaycolError
    raise kind(f"{url}: {status}: {_detail(outcome)}")


def _reason(error: httpx2.HTTPError) -> str:
    return str(error) or type(error).__name__


def _detail(response: httpx2.Response) -> str:
    """The error message of an endpoint, or of a proxy in front of it."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = response.text
    return detail[:_DETAIL_CHARACTERS] or response.reason_phrase


def _parse_embeddings(content: bytes) -> list[NDArray[np.float32]]:
    response = EmbeddingsResponse.model_validate_json(content)
    return [
        array.unpack(response.dim).astype(np.float32)
        if isinstance(array, PackedEmbeddings)
        else np.array(array, dtype=np.float32).reshape(len(array), response.dim)
        for array in response.embeddings
    ]


def _texts(name: str, values: Iterable[str] | None) -> list[str] | None:
    if isinstance(values, str):
        raise InputError(f"{name} is a string, {values[:40]!r}; expected a list of strings")
    return None if values is None else list(values)


def _json(body: Mapping[str, Any]) -> bytes:
    """A body as JSON, without None values. Raises `InputError` for a field with a lone surrogate."""
    fields = {name: value for name, value in body.items() if value is not None}
    try:
        return json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        name = next(name for name, value in fields.items() if _UNPAIRED.search(json.dumps(value, ensure_ascii=False)))
        raise InputError(f"{name}: invalid text: it contains a lone surrogate") from None
