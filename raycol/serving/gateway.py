"""The gateway: checks a request, has it encoded, asks every shard, merges, answers.

An answer is whole or an error: where a shard does not answer by the deadline, the request fails with 504
(or 503 where the shard is gone), and never with fewer documents than there are.

Annotations are not postponed here: in a replica FastAPI could not resolve them.
"""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from starlette.exceptions import HTTPException

from raycol import __version__
from raycol.index.search import merge_hits
from raycol.serving.limits import BodyLimit
from raycol.serving.schema import (
    MAX_BODY_BYTES,
    IndexDescription,
    Problem,
    SearchHit,
    SearchRequest,
    SearchResponse,
    ShardCount,
)

api = FastAPI(title="raycol", version=__version__, description="Late-interaction search.")
api.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)


def problem(status: int, title: str, detail: str) -> JSONResponse:
    """An error as problem+json."""
    body = Problem(title=title, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, media_type="application/problem+json")


@api.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is not as the schema says."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ")
    return problem(422, "Invalid request", f"{where}: {reason}" if where else reason)


@api.exception_handler(HTTPException)
async def not_here(request: Request, error: HTTPException) -> JSONResponse:
    """A path or method that does not exist, or a request given up on."""
    return problem(error.status_code, "Request failed", str(error.detail))


@serve.ingress(api)
class Gateway:
    """The HTTP ingress. Holds handles to the encoder and to every shard of one index version."""

    def __init__(self, encoder: Any, shards: list[Any], description: dict[str, Any], timeout_s: float) -> None:
        self.encoder = encoder
        self.shards = shards
        self.description = IndexDescription.model_validate(description)
        self.timeout_s = timeout_s

    @api.get("/healthz")
    async def health(self) -> dict[str, str]:
        """The gateway is up."""
        return {"status": "ok"}

    @api.get("/v1/index")
    async def describe(self) -> IndexDescription:
        """What is served."""
        return self.description

    @api.post("/v1/search")
    async def search(self, request: SearchRequest) -> SearchResponse:
        """The best documents for one query or several."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                queries = await self.encoder.encode.remote(request.texts)
                encoded = time.perf_counter()
                answers = await asyncio.gather(*(shard.search.remote(queries, request.k) for shard in self.shards))
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.timeout_s:g} s") from None
        except Exception as error:
            raise HTTPException(503, f"a shard or the encoder is unavailable ({type(error).__name__})") from error
        found = time.perf_counter()
        return SearchResponse(
            results=[
                [SearchHit(**hit._asdict()) for hit in merge_hits(parts, request.k)]
                for parts in zip(*answers, strict=True)
            ],
            version=self.description.version,
            shards=ShardCount(total=len(self.shards), answered=len(answers)),
            took_ms={
                "encode": round(1000 * (encoded - started), 2),
                "search": round(1000 * (found - encoded), 2),
                "total": round(1000 * (found - started), 2),
            },
        )
