"""What goes over HTTP: requests, answers and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_K = 1000
MAX_QUERIES = 64
MAX_HITS = 10_000
MAX_QUERY_CHARACTERS = 16384
MAX_BODY_BYTES = 2 << 20

Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]


class SearchRequest(BaseModel):
    """Body of `POST /v1/search`: one query or several, and how many hits for each."""

    model_config = ConfigDict(extra="forbid")

    query: Text | None = None
    queries: Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either 'query' or 'queries'")
        if len(self.texts) * self.k > MAX_HITS:
            raise ValueError(f"{len(self.texts)} queries with k {self.k}; expected at most {MAX_HITS} hits in all")
        return self

    @property
    def texts(self) -> list[str]:
        """The queries, one or several."""
        return [self.query] if self.query is not None else list(self.queries or ())


class SearchHit(BaseModel):
    """One document found, with what the index keeps of it."""

    id: str
    score: float
    metadata: dict[str, Any]


class ShardCount(BaseModel):
    """How many shards there are, and how many took part in an answer."""

    total: int
    answered: int


class SearchResponse(BaseModel):
    """Answer of `POST /v1/search`: for each query its hits, best first, equal scores by id."""

    results: list[list[SearchHit]]
    version: int
    shards: ShardCount
    took_ms: dict[str, float]


class IndexDescription(BaseModel):
    """Answer of `GET /v1/index`."""

    version: int
    documents: int
    tokens: int
    dim: int
    bits: int
    shards: int
    model: str | None


class Problem(BaseModel):
    """An error that the gateway answers with, as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
