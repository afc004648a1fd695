"""Bodies of HTTP requests and responses, and their limits."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from raycol.index.format.document import MAX_QUERY_TOKENS
from raycol.index.search.effort import Effort

MAX_K = 1000
MAX_QUERIES = 64
MAX_HITS = 10_000
MAX_IDS = 10_000
MAX_DOCUMENTS = 256
MAX_INPUTS = 64
MAX_ID_CHARACTERS = 1024
MAX_QUERY_CHARACTERS = 16_384
MAX_DOCUMENT_CHARACTERS = 65_536
MAX_FILTER_CHARACTERS = 8192
MAX_BODY_BYTES = 8 << 20

Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
DocumentText = Annotated[str, Field(max_length=MAX_DOCUMENT_CHARACTERS)]
DocumentTexts = Annotated[list[DocumentText], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
FilterText = Annotated[str, Field(min_length=1, max_length=MAX_FILTER_CHARACTERS)]
TimeoutMs = Annotated[int, Field(ge=1, le=600_000)]
# fail_fast: a body may hold a million invalid items, and pydantic would keep an error for each.
Vector = Annotated[list[FiniteFloat], Field(min_length=1, max_length=65_536, fail_fast=True)]


class Omitted(NamedTuple):
    """Replaces a metadata value that is too large for a shard's reply."""

    n_bytes: int


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _check_number_of_fields(cls, body: Any) -> Any:
        # Fail fast, as with lists. pydantic reports each of a few unknown fields.
        if isinstance(body, dict) and len(body) > len(cls.model_fields):
            unknown = next(name for name in body if name not in cls.model_fields)
            raise ValueError(f"unknown field {unknown!r:.60}")
        return body


class PackedEmbeddings(_Body):
    """Token embeddings of one text: base64 of little-endian float32 in row-major order; faster than JSON."""

    tokens: Annotated[int, Field(ge=1, lt=2**20)]
    data: str

    def unpack(self, dim: int) -> NDArray[np.float32]:
        """The embeddings, float32 [tokens, dim]. Raises `ValueError` if `data` has another size."""
        try:
            content = base64.b64decode(self.data, validate=True)
        except binascii.Error:
            raise ValueError("data is not base64") from None
        if len(content) != 4 * self.tokens * dim:
            raise ValueError(
                f"data has {len(content)} bytes; expected {4 * self.tokens * dim} for {self.tokens} tokens of "
                f"dimension {dim}"
            )
        return np.frombuffer(content, dtype="<f4").reshape(self.tokens, dim)


class PackedQuery(PackedEmbeddings):
    """Packed token embeddings of one query."""

    tokens: Annotated[int, Field(ge=1, le=MAX_QUERY_TOKENS)]


Embeddings = Annotated[list[Vector], Field(min_length=1, max_length=MAX_QUERY_TOKENS, fail_fast=True)] | PackedQuery


class SearchRequest(_Body):
    """Body of `POST /v1/search`: one or more queries, as texts or token embeddings, and search settings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "how do I parse a date?", "k": 3}]})

    query: Text | None = None
    """One query."""

    queries: Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    """Several queries."""

    embeddings: Annotated[list[Embeddings], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    """Token embeddings of several queries, each a list of vectors or packed."""

    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Hits per query."""

    filter: FilterText | None = None
    """A SQL condition over metadata columns."""

    ids: Annotated[list[Id], Field(max_length=MAX_IDS, fail_fast=True)] | None = None
    """Search only these documents."""

    effort: Effort = "default"
    """Search effort."""

    timeout_ms: TimeoutMs | None = None
    """Time limit, after which the response is partial; capped by the endpoint's own limit."""

    allow_partial: bool = True
    """Accept a response without the documents of shards that failed; otherwise it is a 503."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(field is not None for field in (self.query, self.queries, self.embeddings)) != 1:
            raise ValueError("expected exactly one of 'query', 'queries' and 'embeddings'")
        n_queries = len(self.embeddings) if self.embeddings is not None else len(self.texts)
        if n_queries * self.k > MAX_HITS:
            raise ValueError(f"{n_queries} queries times k {self.k}; expected at most {MAX_HITS} hits in total")
        return self

    @property
    def texts(self) -> list[str]:
        """The text queries; empty for embeddings."""
        return [self.query] if self.query is not None else list(self.queries or ())


class SearchHit(BaseModel):
    """A document with its score, text and metadata."""

    id: str
    score: float
    text: str | None
    metadata: dict[str, Any]
    omitted: list[str] = []
    """Columns whose values are too large for a response, `text` included."""

    @classmethod
    def of(cls, id_: str, score: float, row: dict[str, Any]) -> Self:
        """Build a hit from a document's columns, of which `text` may be one."""
        omitted = [name for name, value in row.items() if isinstance(value, Omitted)]
        metadata = {name: value for name, value in row.items() if name not in omitted}
        text = metadata.pop("text", None)
        return cls(id=id_, score=score, text=text, metadata=metadata, omitted=omitted)


class ShardCount(BaseModel):
    """The number of shards, and of those that answered."""

    total: int
    answered: int


class SearchResponse(BaseModel):
    """Response of `POST /v1/search`: the hits of each query, best first, ties by id.

    `partial`: documents of some shards are missing.
    """

    results: list[list[SearchHit]]
    version: int
    partial: bool
    shards: ShardCount
    took_ms: dict[str, float]


class RerankRequest(_Body):
    """Body of `POST /v1/rerank`: a query, and the texts or ids of indexed documents to rerank."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "parse a date", "documents": ["strptime", "copytree"]}]}
    )

    query: Text
    documents: DocumentTexts | None = None
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_IDS)] | None = None
    timeout_ms: TimeoutMs | None = None
    allow_partial: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.documents is None) == (self.ids is None):
            raise ValueError("expected exactly one of 'documents' and 'ids'")
        return self


class Reranked(BaseModel):
    """A document's exact score, with its index in `documents` or its id."""

    index: int | None = None
    id: str | None = None
    score: float


class RerankResponse(BaseModel):
    """Response of `POST /v1/rerank`, best first; ids that are not in the index are in `unknown`.

    `partial`: documents of some shards are missing; `unknown` is then empty, since any id may be on such a shard.
    `shards` is None for texts.
    """

    results: list[Reranked]
    unknown: list[str]
    version: int
    partial: bool = False
    shards: ShardCount | None = None
    took_ms: dict[str, float]


class EmbeddingsRequest(_Body):
    """Body of `POST /v1/embeddings`: one or more texts, queries or documents."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "parse a date", "packed": True}]})

    input: Text | Annotated[list[DocumentText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    is_query: bool = True
    packed: bool = False
    """Return `PackedEmbeddings` in place of lists of numbers."""

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class EmbeddingsResponse(BaseModel):
    """Response of `POST /v1/embeddings`: the token embeddings of each text."""

    embeddings: list[list[list[float]]] | list[PackedEmbeddings]
    dim: int
    model: str | None


class ExplainRequest(_Body):
    """Body of `POST /v1/explain`: a query and a document of the index."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "parse a date", "id": "doc-1"}]})

    query: Text
    id: Id


class Token(BaseModel):
    """A token and its character offsets in the text; both are 0 for special tokens and padding."""

    text: str
    start: int
    end: int


class TokenMatch(BaseModel):
    """A query token and the document token with the highest similarity, by index, and their dot product."""

    query_token: int
    document_token: int
    score: float


class ExplainResponse(BaseModel):
    """Response of `POST /v1/explain`: the scores of the matches add up to `score`.

    `document_tokens` is None if the index does not store the text or its embeddings are pooled. Offsets count
    characters of `text`, the document's title and text as they were encoded.
    """

    id: str
    score: float
    text: str | None
    query_tokens: list[Token]
    document_tokens: list[Token] | None
    matches: list[TokenMatch]
    version: int


class DocumentResponse(BaseModel):
    """Response of `GET /v1/documents/{id}`."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    omitted: list[str] = []
    version: int


class VersionRequest(_Body):
    """Body of `POST /v1/admin/version`: the version to serve; null for the newest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": None}]})

    version: Annotated[int, Field(ge=1, lt=10**8)] | None


class VersionResponse(BaseModel):
    """Response of `POST /v1/admin/version`: the served version and the previous one."""

    version: int
    before: int


class IndexDescription(BaseModel):
    """Response of `GET /v1/index`. `name` and `model` of local folders and URIs are their last components."""

    name: str
    version: int
    versions: list[int]
    documents: int
    tokens: int
    dim: int
    bits: int
    columns: dict[str, str]
    shards: int
    model: str | None


class Health(BaseModel):
    """Response of `GET /healthz` and `GET /readyz`."""

    status: Literal["ok", "not ready"]
    version: int | None = None
    shards: ShardCount | None = None


class Problem(BaseModel):
    """An error response, application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
