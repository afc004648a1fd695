"""The gateway deployment: HTTP routes, error responses and OpenAPI. `gateway_state` answers the requests.

No `from __future__ import annotations`: FastAPI could not resolve string annotations in a replica.
"""

import asyncio
import codecs
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from ray import serve
from starlette.exceptions import HTTPException

from raycol.client.schema import (
    MAX_ID_CHARACTERS,
    DocumentResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ExplainRequest,
    ExplainResponse,
    Health,
    IndexDescription,
    Problem,
    RerankRequest,
    RerankResponse,
    SearchRequest,
    SearchResponse,
    VersionRequest,
    VersionResponse,
)
from raycol.core.version import __version__
from raycol.distributed.listening import keep_replica_on_loopback
from raycol.errors import InputError, RaycolError
from raycol.serving import metrics
from raycol.serving.gateway_state import GatewaySettings, GatewayState
from raycol.serving.http.middleware import REQUEST_ID, Guard
from raycol.serving.http.page import HEADERS, PAGE_PATHS, page_files
from raycol.serving.shard_calls import UnavailableError

log = logging.getLogger("ray.serve")

_PROBLEM: dict[str, Any] = {
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {**_PROBLEM, "description": description}
    for status, description in (
        (400, "The body is not JSON"),
        (401, "Missing or unknown API key"),
        (403, "The key's scope, the host or the origin does not allow this"),
        (404, "Not found"),
        (405, "Method not allowed"),
        (408, "The body arrived too slowly"),
        (413, "The body is too large"),
        (422, "Invalid request"),
        (429, "Too many requests"),
        (503, "A shard or the encoder is unavailable"),
    )
}


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body as JSON. The standard library's parser takes eight times as long for embeddings."""
        try:
            return from_json((await self.body()).removeprefix(codecs.BOM_UTF8))
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from None


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the schema of `Problem`, which FastAPI omits: it is not application/json."""
        document = super().openapi()
        document["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return document


api = _Api(
    title="raycol",
    version=__version__,
    description="Late-interaction search.",
    responses=_PROBLEMS,
    docs_url=None,
    redoc_url=None,
    redirect_slashes=False,
)
api.router.route_class = _Route
api.add_middleware(Guard)


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem+json response (RFC 9457)."""
    body = Problem(title=title, status=status, detail=detail, request_id=REQUEST_ID.get() or None)
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


@api.exception_handler(RequestValidationError)
async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    """422 for a request that does not match the schema."""
    if isinstance(error.body, bytes):
        # curl -d says that it sends a form. Reading any body as JSON would let pages of other origins send requests.
        return problem(
            422,
            "Invalid request",
            "the body is not declared as JSON; add the header 'Content-Type: application/json' (curl: --json)",
        )
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ")
    return problem(422, "Invalid request", f"{where}: {reason}" if where else reason)


@api.exception_handler(HTTPException)
async def http_error(request: Request, error: HTTPException) -> JSONResponse:
    """404, 405 and other errors raised by routing."""
    return problem(error.status_code, "Request failed", str(error.detail), dict(error.headers or {}))


@api.exception_handler(InputError)
async def input_error(request: Request, error: InputError) -> JSONResponse:
    """422 for a well-formed request that is invalid for this index, such as a filter over an unknown column."""
    return problem(422, "Invalid request", str(error))


@api.exception_handler(UnavailableError)
async def unavailable_error(request: Request, error: UnavailableError) -> JSONResponse:
    """503 if a shard or the encoder failed or timed out."""
    return problem(503, "Unavailable", str(error), {"Retry-After": "1"})


@api.exception_handler(RaycolError)
async def raycol_error(request: Request, error: RaycolError) -> JSONResponse:
    """503 if the index is damaged or cannot be written. The error goes to the log only: it names local files."""
    log.error("request %s: %s", REQUEST_ID.get(), error)
    return problem(503, "Unavailable", "the index cannot be read or written; see the gateway's log")


def _page_routes(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Register a method for every path of the page."""
    for path in PAGE_PATHS:
        handle = api.get(path, include_in_schema=False)(handle)
    return handle


@serve.ingress(api)
class Gateway:
    """The HTTP ingress."""

    def __init__(self, settings: GatewaySettings, encoder: Any, shards: list[Any]) -> None:
        keep_replica_on_loopback()
        self.state = GatewayState(settings, encoder, shards)
        Guard.settings = self.state.guard_settings
        self.name = serve.get_replica_context().replica_id.unique_id
        self._follow_task: asyncio.Task[None] | None = None

    def _ensure_following(self) -> None:
        """Start `GatewayState.follow` unless it runs. Called in requests: it needs their event loop."""
        if self._follow_task is None or self._follow_task.done():
            self._follow_task = asyncio.get_running_loop().create_task(self.state.follow())

    async def check_health(self) -> None:
        """Serve's health check."""
        self._ensure_following()

    # Routes are matched in order: the most frequent one comes first.
    @api.post("/v1/search")
    async def search(self, request: SearchRequest) -> SearchResponse:
        """Search with one or more queries."""
        self._ensure_following()
        return await self.state.search(request)

    @_page_routes
    async def page(self, request: Request) -> Response:
        """The search page and the description of the API."""
        file = page_files()[request.scope["route"].path]
        return Response(file.content, media_type=file.content_type, headers=dict(HEADERS))

    @api.get("/docs", include_in_schema=False)
    async def docs(self) -> Response:
        """Redirect to the description of the API; relative, so that it works under a route prefix."""
        return RedirectResponse("api.html")

    @api.get("/healthz")
    async def health(self) -> Health:
        """Whether the gateway is up."""
        return Health(status="ok")

    @api.get("/readyz", responses={503: {**_PROBLEM, "model": Health, "description": "Not ready"}})
    async def ready(self, response: Response) -> Health:
        """Whether every shard and the encoder answer."""
        health = await self.state.ready()
        response.status_code = 200 if health.status == "ok" else 503
        return health

    @api.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics(self) -> Response:
        """Prometheus metrics."""
        return Response(metrics.exposition(self.name), media_type="text/plain; version=0.0.4")

    @api.get("/v1/index")
    async def describe(self) -> IndexDescription:
        """Describe the served index."""
        return await self.state.describe()

    @api.post("/v1/rerank")
    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """Rerank texts or indexed documents by exact MaxSim scores."""
        return await self.state.rerank(request)

    @api.post("/v1/embeddings")
    async def embeddings(self, request: EmbeddingsRequest) -> EmbeddingsResponse:
        """Encode texts to token embeddings."""
        return await self.state.embed(request)

    @api.post("/v1/explain")
    async def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Explain a score: the document token that each query token matches."""
        return await self.state.explain(request)

    # Without an explicit example, FastAPI's pickled sentinel for "no example" ends up in the OpenAPI document.
    @api.get("/v1/documents/{id:path}")
    async def document(
        self,
        id: Annotated[  # noqa: A002
            str, Path(min_length=1, max_length=MAX_ID_CHARACTERS, openapi_examples={"one": {"value": "doc-1"}})
        ],
    ) -> DocumentResponse:
        """Get a document's text and metadata."""
        document = await self.state.document(id)
        if document is None:
            raise HTTPException(404, "no document with this id")
        return document

    @api.post("/v1/admin/version")
    async def version(self, request: VersionRequest) -> VersionResponse:
        """Switch to another version once every shard has opened it."""
        return await self.state.switch(request.version)
