"""What goes over HTTP: requests, answers and their limits."""

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
# Of a list the first item that is wrong is enough: a body has room for a million of them, each an error to be kept.
Vector = Annotated[list[FiniteFloat], Field(min_length=1, max_length=65_536, fail_fast=True)]


class Omitted(NamedTuple):
    """Stands in a shard's answer for a value that is too large for it."""

    n_bytes: int


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _no_more_than_known(cls, body: Any) -> Any:
        # As with lists; fewer that are not known are each named.
        if isinstance(body, dict) and len(body) > len(cls.model_fields):
            unknown = next(name for name in body if name not in cls.model_fields)
            raise ValueError(f"no field {unknown!r:.60}")
        return body


class PackedEmbeddings(_Body):
    """The token embeddings of one text as base64 of little-endian float32, row by row; quicker than JSON."""

    tokens: Annotated[int, Field(ge=1, lt=2**20)]
    data: str

    def unpack(self, dim: int) -> NDArray[np.float32]:
        """Float32 [tokens, dim]. Raises `ValueError`."""
        try:
            content = base64.b64decode(self.data, validate=True)
        except binascii.Error:
            raise ValueError("data is not base64") from None
        if len(content) != 4 * self.tokens * dim:
            raise ValueError(f"{len(content)} bytes; expected {4 * self.tokens * dim}, {self.tokens} tokens of {dim}")
        return np.frombuffer(content, dtype="<f4").reshape(self.tokens, dim)


class PackedQuery(PackedEmbeddings):
    """The token embeddings of one query, packed."""

    tokens: Annotated[int, Field(ge=1, le=MAX_QUERY_TOKENS)]


Embeddings = Annotated[list[Vector], Field(min_length=1, max_length=MAX_QUERY_TOKENS, fail_fast=True)] | PackedQuery


class SearchRequest(_Body):
    """Body of `POST /v1/search`: one query or several, as texts or token embeddings, and how to search."""

    query: Text | None = None
    """One query."""

    queries: Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    """Several queries."""

    embeddings: Annotated[list[Embeddings], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)] | None = None
    """Several queries that are encoded already: for each a list of token embeddings, or these packed."""

    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Hits a query."""

    filter: FilterText | None = None
    """A SQL condition over metadata columns."""

    ids: Annotated[list[Id], Field(max_length=MAX_IDS, fail_fast=True)] | None = None
    """Only these documents."""

    effort: Effort = "default"
    """How hard to look."""

    timeout_ms: TimeoutMs | None = None
    """When to answer with what there is; the endpoint's own limit is the most."""

    allow_partial: bool = True
    """Whether an answer may lack the documents of shards that do not answer; otherwise it is an error (503)."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.query, self.queries, self.embeddings)) != 1:
            raise ValueError("give one of 'query', 'queries' and 'embeddings'")
        n_queries = len(self.embeddings) if self.embeddings is not None else len(self.texts)
        if n_queries * self.k > MAX_HITS:
            raise ValueError(f"{n_queries} queries with k {self.k}; expected at most {MAX_HITS} hits in all")
        return self

    @property
    def texts(self) -> list[str]:
        """The queries that are texts, one or several."""
        return [self.query] if self.query is not None else list(self.queries or ())


class SearchHit(BaseModel):
    """One document found, with what the index keeps of it."""

    id: str
    score: float
    text: str | None
    metadata: dict[str, Any]
    omitted: list[str] = []
    """Columns whose values are too large for an answer, the text's perhaps."""

    @classmethod
    def of(cls, id_: str, score: float, kept: dict[str, Any]) -> Self:
        """From a document's metadata columns, of which its text is one."""
        omitted = [name for name, value in kept.items() if isinstance(value, Omitted)]
        metadata = {name: value for name, value in kept.items() if name not in omitted}
        text = metadata.pop("text", None)
        return cls(id=id_, score=score, text=text, metadata=metadata, omitted=omitted)


class ShardCount(BaseModel):
    """How many shards there are, and how many took part in an answer."""

    total: int
    answered: int


class SearchResponse(BaseModel):
    """Answer of `POST /v1/search`: for each query its hits, best first, equal scores by id.

    `partial` says whether documents of some shards are missing.
    """

    results: list[list[SearchHit]]
    version: int
    partial: bool
    shards: ShardCount
    took_ms: dict[str, float]


class RerankRequest(_Body):
    """Body of `POST /v1/rerank`: a query, and texts or documents of the index to put in order."""

    query: Text
    documents: DocumentTexts | None = None
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_IDS)] | None = None
    timeout_ms: TimeoutMs | None = None
    allow_partial: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.documents is None) == (self.ids is None):
            raise ValueError("give either 'documents' or 'ids'")
        return self


class Reranked(BaseModel):
    """A document with its exact score: its place in `documents`, or its id."""

    index: int | None = None
    id: str | None = None
    score: float


class RerankResponse(BaseModel):
    """Answer of `POST /v1/rerank`, best first; ids that are not in the index are in `unknown`.

    `partial` says whether documents of some shards are missing: then nobody can say which ids are unknown, and none
    are named. `shards` is None where texts were given, not ids.
    """

    results: list[Reranked]
    unknown: list[str]
    version: int
    partial: bool = False
    shards: ShardCount | None = None
    took_ms: dict[str, float]


class EmbeddingsRequest(_Body):
    """Body of `POST /v1/embeddings`: one text or several, queries or documents."""

    input: Text | Annotated[list[DocumentText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    is_query: bool = True
    packed: bool = False
    """Answer with base64 of float32 in place of numbers."""

    @property
    def texts(self) -> list[str]:
        """One or several."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class EmbeddingsResponse(BaseModel):
    """Answer of `POST /v1/embeddings`: for each text its token embeddings."""

    embeddings: list[list[list[float]]] | list[PackedEmbeddings]
    dim: int
    model: str | None


class ExplainRequest(_Body):
    """Body of `POST /v1/explain`: a query and a document of the index."""

    query: Text
    id: Id


class Token(BaseModel):
    """A token, and where it stands in its text; `start` and `end` are 0 for what the text does not have."""

    text: str
    start: int
    end: int


class TokenMatch(BaseModel):
    """The document token that a query token matched, by their places in the two lists, and the product of the two."""

    query_token: int
    document_token: int
    score: float


class ExplainResponse(BaseModel):
    """Answer of `POST /v1/explain`: the scores of the matches add up to `score`.

    `document_tokens` is None where the index does not keep the text, or its embeddings are not one a token.
    Their places count characters of `text`, the document's title and text as they were encoded.
    """

    id: str
    score: float
    text: str | None
    query_tokens: list[Token]
    document_tokens: list[Token] | None
    matches: list[TokenMatch]
    version: int


class DocumentResponse(BaseModel):
    """Answer of `GET /v1/documents/{id}`."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    omitted: list[str] = []
    version: int


class VersionRequest(_Body):
    """Body of `POST /v1/admin/version`: which version to serve; null is the newest."""

    version: Annotated[int, Field(ge=1, lt=10**8)] | None


class VersionResponse(BaseModel):
    """Answer of `POST /v1/admin/version`."""

    version: int
    before: int


class IndexDescription(BaseModel):
    """Answer of `GET /v1/index`."""

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
    """Answer of `GET /healthz` and `GET /readyz`."""

    status: Literal["ok", "not ready"]
    version: int | None = None
    shards: ShardCount | None = None


class Problem(BaseModel):
    """An error that the gateway answers with, as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
