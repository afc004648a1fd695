"""The gateway's HTTP: each path, what it takes and what it answers. What it does is in `endpoint`.

Annotations are not postponed here: in a replica FastAPI could not resolve them.
"""

import asyncio
import codecs
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from ray import serve
from starlette.exceptions import HTTPException

from raycol import __version__
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
from raycol.distributed.listening import keep_replica_on_loopback
from raycol.errors import InputError, RaycolError
from raycol.serving import metrics
from raycol.serving.endpoint import GatewayState, Settings, UnavailableError
from raycol.serving.http.middleware import REQUEST_ID, Guard
from raycol.serving.http.page import HEADERS, page_files

log = logging.getLogger("ray.serve")

_PROBLEM: dict[str, Any] = {
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {**_PROBLEM, "description": description}
    for status, description in (
        (400, "The body is no JSON"),
        (401, "No key, or an unknown one"),
        (403, "A key of another scope"),
        (404, "There is no such thing"),
        (405, "Not this method"),
        (408, "The body came too slowly"),
        (413, "The body is too large"),
        (422, "The request cannot be used"),
        (429, "Too many requests"),
        (503, "A shard or the encoder does not answer"),
    )
}


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body as JSON. For lists of numbers, as embeddings are, Python's own parser takes eight times as long."""
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
        """The document, with the schema of problems: FastAPI knows of it only where it is plain JSON."""
        made = super().openapi()
        made["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return made


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
    """An error as problem+json."""
    body = Problem(title=title, status=status, detail=detail, request_id=REQUEST_ID.get() or None)
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


@api.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is not as the schema says."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ")
    return problem(422, "Invalid request", f"{where}: {reason}" if where else reason)


@api.exception_handler(HTTPException)
async def not_here(request: Request, error: HTTPException) -> JSONResponse:
    """A path or method that does not exist."""
    return problem(error.status_code, "Request failed", str(error.detail), dict(error.headers or {}))


@api.exception_handler(InputError)
async def unusable(request: Request, error: InputError) -> JSONResponse:
    """A request that is well formed and cannot be used, such as a filter over a column that there is not."""
    return problem(422, "Invalid request", str(error))


@api.exception_handler(UnavailableError)
async def unavailable(request: Request, error: UnavailableError) -> JSONResponse:
    """A shard or the encoder is gone or late."""
    return problem(503, "Unavailable", str(error), {"Retry-After": "1"})


@api.exception_handler(RaycolError)
async def failed(request: Request, error: RaycolError) -> JSONResponse:
    """The index is damaged or cannot be written. What the error says is of this machine, and for its log."""
    log.error("request %s: %s", REQUEST_ID.get(), error)
    return problem(503, "Unavailable", "the index cannot be read or written; the log says why")


@serve.ingress(api)
class Gateway:
    """The HTTP ingress."""

    def __init__(self, settings: Settings, encoder: Any, shards: list[Any]) -> None:
        keep_replica_on_loopback()
        self.endpoint = GatewayState(settings, encoder, shards)
        Guard.rules = self.endpoint.rules
        self.name = serve.get_replica_context().replica_id.unique_id
        self.following: asyncio.Task[None] | None = None

    def _follow(self) -> None:
        """Notice, from now on, what other gateways and administrators change. Needs the event loop of requests."""
        if self.following is None or self.following.done():
            self.following = asyncio.get_running_loop().create_task(self.endpoint.follow())

    async def check_health(self) -> None:
        """Called by Serve."""
        self._follow()

    # Routes are tried in their order: the one that is asked most comes first.
    @api.post("/v1/search")
    async def search(self, request: SearchRequest) -> SearchResponse:
        """The best documents for one query or several."""
        self._follow()
        return await self.endpoint.search(request)

    @api.get("/", include_in_schema=False)
    @api.get("/page.css", include_in_schema=False)
    @api.get("/page.js", include_in_schema=False)
    async def page(self, request: Request) -> Response:
        """The search page."""
        file = page_files()[request.scope["route"].path]
        return Response(file.content, media_type=file.content_type, headers=dict(HEADERS))

    @api.get("/healthz")
    async def health(self) -> Health:
        """The gateway is up."""
        return Health(status="ok")

    @api.get("/readyz", responses={503: {**_PROBLEM, "model": Health, "description": "Some do not"}})
    async def ready(self, response: Response) -> Health:
        """Every shard and the encoder answer."""
        found = await self.endpoint.ready()
        response.status_code = 200 if found.status == "ok" else 503
        return found

    @api.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics(self) -> Response:
        """What is counted, for Prometheus."""
        return Response(metrics.exposition(self.name), media_type="text/plain; version=0.0.4")

    @api.get("/v1/index")
    async def describe(self) -> IndexDescription:
        """What is served."""
        return await self.endpoint.describe()

    @api.post("/v1/rerank")
    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """Texts, or documents of the index, in the order of their exact scores."""
        return await self.endpoint.rerank(request)

    @api.post("/v1/embeddings")
    async def embeddings(self, request: EmbeddingsRequest) -> EmbeddingsResponse:
        """The token embeddings of texts."""
        return await self.endpoint.embed(request)

    @api.post("/v1/explain")
    async def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Which tokens of a document the tokens of a query match."""
        return await self.endpoint.explain(request)

    # Without an example of ours FastAPI, once pickled, takes its mark of a missing one for one.
    @api.get("/v1/documents/{id:path}")
    async def document(
        self,
        id: Annotated[  # noqa: A002
            str, Path(min_length=1, max_length=MAX_ID_CHARACTERS, openapi_examples={"one": {"value": "doc-1"}})
        ],
    ) -> DocumentResponse:
        """What the index keeps of a document."""
        found = await self.endpoint.document(id)
        if found is None:
            raise HTTPException(404, "no document of this id")
        return found

    @api.post("/v1/admin/version")
    async def version(self, request: VersionRequest) -> VersionResponse:
        """Serve another version, from the next request on; it is opened everywhere before."""
        return await self.endpoint.switch(request.version)
