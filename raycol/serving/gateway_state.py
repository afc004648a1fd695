"""Answers requests: encodes queries, calls the shards, merges their results. `gateway` maps this to HTTP."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raycol.client.schema import (
    DocumentResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ExplainRequest,
    ExplainResponse,
    Health,
    IndexDescription,
    PackedEmbeddings,
    Reranked,
    RerankRequest,
    RerankResponse,
    SearchHit,
    SearchRequest,
    SearchResponse,
    ShardCount,
    Token,
    TokenMatch,
    VersionResponse,
)
from raycol.core.uris import base_name, is_uri
from raycol.errors import InputError
from raycol.index.format.document import check_embeddings, encoded_text
from raycol.index.format.manifest import versions
from raycol.index.search.effort import resolve
from raycol.index.search.filters import parse_filter
from raycol.index.shard import Selection, whole_size
from raycol.serving import metrics, scatter
from raycol.serving.http.middleware import GuardSettings, Hosts
from raycol.serving.keys import WatchedKeys
from raycol.serving.shard_calls import ShardHandles, Shards, UnavailableError
from raycol.serving.version_follower import VersionFollower
from raycol.storage import open_store

T = TypeVar("T")

# Poll interval for the served version and the keys.
_FOLLOW_S = 2.0
_STATUS_S = 2.0
# Cache /readyz for this long: the path is public and must not fan out to the shards on every request.
_READY_S = 1.0

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class GatewaySettings:
    """Deployment settings of a gateway. `recorded_at` is that of the served-version record read at deployment."""

    index: str
    version: int
    recorded_at: int
    model: str | None
    timeout_s: float
    max_requests: int
    keys: str | None
    cors: tuple[str, ...]
    host: str | None = None
    allowed_hosts: tuple[str, ...] = ()


class GatewayState:
    """The version that a gateway serves, and its handles of the shards and the encoder.

    `encoder` is None if the index's model is unknown: requests then need embeddings, and texts raise `InputError`.
    """

    def __init__(self, settings: GatewaySettings, encoder: Any, shards: Sequence[Any]) -> None:
        self.settings = settings
        self._encoder_or_none = encoder
        self._shards = list(shards)
        self._handles = ShardHandles(self._shards)
        self._store = open_store(settings.index)
        self._served = VersionFollower(self._store, settings.version, settings.recorded_at, self._shards)
        self._ready_check: asyncio.Task[Health] | None = None
        self._ready_checked = 0.0
        self._keys = None if settings.keys is None else WatchedKeys(settings.keys)
        # With keys, DNS rebinding gains nothing: the page has no key.
        hosts = None if self._keys and not settings.allowed_hosts else Hosts(settings.host, settings.allowed_hosts)
        self.guard_settings = GuardSettings(
            settings.max_requests, self._scope_of if self._keys else None, settings.cors, hosts
        )

    def _scope_of(self, key: str | None) -> str | None:
        # Look up `keys` on every call: `refresh` replaces it.
        return self._keys.keys.scope_of(key) if self._keys else None

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Answer `POST /v1/search`."""
        started = time.perf_counter()
        manifest, prober, deadline = self._served.manifest, self._served.prober, self._deadline(request.timeout_ms)
        if request.filter is not None:
            parse_filter(request.filter, manifest.columns)
        if request.embeddings is not None:
            queries = [
                check_embeddings(_unpack(query, manifest.dim, number), manifest.dim, f"query {number}")
                for number, query in enumerate(request.embeddings)
            ]
        else:
            queries = await self._embed(request.texts, deadline, is_query=True)
        encoded = time.perf_counter()
        shards = self._handles.open(manifest.version, deadline)
        try:
            result = await scatter.search(
                shards,
                queries,
                k=request.k,
                settings=resolve(request.effort, manifest.tuned, manifest.codebook.n_centroids, request.k),
                size=whole_size(manifest),
                n_centroids=manifest.codebook.n_centroids,
                selection=Selection(
                    request.filter, None if request.ids is None else tuple(dict.fromkeys(request.ids))
                ),
                probe=prober,
            )
        except TimeoutError as error:
            raise UnavailableError(str(error)) from None
        partial = result.answered < len(self._shards)
        if partial:
            metrics.PARTIAL.inc()
            if not result.answered or not request.allow_partial:
                raise shards.unavailable(result.answered)
        metrics.QUERIES.inc(len(queries))
        stages = {"encode": encoded - started, **result.seconds, "total": time.perf_counter() - started}
        for stage, seconds in stages.items():
            metrics.STAGES.labels(stage).observe(seconds)
        return SearchResponse(
            results=[[SearchHit.of(*hit) for hit in hits] for hits in result.hits],
            version=manifest.version,
            partial=partial,
            shards=ShardCount(total=len(self._shards), answered=result.answered),
            took_ms={stage: round(1000 * seconds, 2) for stage, seconds in stages.items()},
        )

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """Answer `POST /v1/rerank`."""
        started = time.perf_counter()
        manifest, deadline = self._served.manifest, self._deadline(request.timeout_ms)
        unknown: list[str] = []
        count, partial = None, False
        if request.documents is not None:
            scores = await self._await_encoder(self._encoder.score.remote(request.query, request.documents), deadline)
            results = [Reranked(index=index, score=score) for index, score in enumerate(scores)]
            results.sort(key=lambda result: (-result.score, result.index))
        else:
            queries = await self._embed([request.query], deadline, is_query=True)
            ids = list(dict.fromkeys(request.ids or ()))
            shards = self._handles.open(manifest.version, deadline)
            replies = await shards.call_complete("rerank", queries, [ids], allow_partial=request.allow_partial)
            results = [Reranked(id=hit.id, score=hit.score) for reply in replies for hit in reply[0]]
            results.sort(key=lambda result: (-result.score, result.id))
            count = ShardCount(total=len(self._shards), answered=len(replies))
            partial = count.answered < count.total
            if partial:
                metrics.PARTIAL.inc()
            else:
                known = {result.id for result in results}
                unknown = [id_ for id_ in ids if id_ not in known]
        took = {"total": round(1000 * (time.perf_counter() - started), 2)}
        return RerankResponse(
            results=results[: request.k],
            unknown=unknown,
            version=manifest.version,
            partial=partial,
            shards=count,
            took_ms=took,
        )

    async def embed(self, request: EmbeddingsRequest) -> EmbeddingsResponse:
        """Answer `POST /v1/embeddings`."""
        arrays = await self._embed(request.texts, self._deadline(None), is_query=request.is_query)
        embeddings = [_pack(array) for array in arrays] if request.packed else [array.tolist() for array in arrays]
        return EmbeddingsResponse(embeddings=embeddings, dim=self._served.manifest.dim, model=self._model)

    async def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Answer `POST /v1/explain`."""
        manifest, deadline = self._served.manifest, self._deadline(None)
        (query_QD,) = await self._embed([request.query], deadline, is_query=True)
        shards = self._handles.open(manifest.version, deadline)
        replies = await shards.call_complete("explain", query_QD, request.id)
        matches = next((reply for reply in replies if reply is not None), None)
        if matches is None:
            raise InputError(f"document {request.id!r} is not in version {manifest.version}")
        text = encoded_text((await self._read_documents(shards, [request.id])).get(request.id, {}))
        tokens = await self._await_encoder(self._encoder.tokens.remote(request.query, True), deadline)
        document = (
            [] if text is None else await self._await_encoder(self._encoder.tokens.remote(text, False), deadline)
        )
        aligned = manifest.pool_factor == 1 and max(match.document_token for match in matches) < len(document)
        return ExplainResponse(
            id=request.id,
            score=sum(match.score for match in matches),
            text=text,
            query_tokens=[Token(text=token, start=start, end=end) for token, start, end in tokens],
            document_tokens=[Token(text=token, start=start, end=end) for token, start, end in document]
            if aligned
            else None,
            matches=[
                TokenMatch(query_token=match.query_token, document_token=match.document_token, score=match.score)
                for match in matches
            ],
            version=manifest.version,
        )

    async def document(self, id_: str) -> DocumentResponse | None:
        """Answer `GET /v1/documents/{id}`."""
        version = self._served.manifest.version
        documents = await self._read_documents(self._handles.open(version, self._deadline(None)), [id_])
        if id_ not in documents:
            return None
        hit = SearchHit.of(id_, 0.0, documents[id_])
        return DocumentResponse(id=id_, text=hit.text, metadata=hit.metadata, omitted=hit.omitted, version=version)

    async def describe(self) -> IndexDescription:
        """Answer `GET /v1/index`."""
        manifest = self._served.manifest
        return IndexDescription(
            name=base_name(self._store.uri),
            version=manifest.version,
            versions=await asyncio.to_thread(versions, self._store),
            documents=manifest.documents,
            tokens=manifest.tokens,
            dim=manifest.dim,
            bits=manifest.bits,
            columns={name: str(type_) for name, type_ in manifest.columns.items()},
            shards=len(self._shards),
            model=self._model,
        )

    async def ready(self) -> Health:
        """Answer `GET /readyz`; the result is cached for `_READY_S` seconds."""
        check, now = self._ready_check, time.monotonic()
        if check is None or (check.done() and now - self._ready_checked > _READY_S):
            self._ready_checked = now
            check = self._ready_check = asyncio.get_running_loop().create_task(self._check_ready())
        return await asyncio.shield(check)

    async def _check_ready(self) -> Health:
        """Ping every shard and the encoder."""
        responses = [shard.status.remote() for shard in self._shards]
        if self._encoder_or_none is not None:
            responses.append(self._encoder.status.remote())
        tasks = [asyncio.ensure_future(_result(response)) for response in responses]
        await asyncio.wait(tasks, timeout=_STATUS_S)
        succeeded = [task.done() and not task.cancelled() and task.exception() is None for task in tasks]
        for task in tasks:
            task.cancel()
        count = ShardCount(total=len(self._shards), answered=sum(succeeded[: len(self._shards)]))
        return Health(
            status="ok" if all(succeeded) else "not ready", version=self._served.manifest.version, shards=count
        )

    async def switch(self, version: int | None) -> VersionResponse:
        """Answer `POST /v1/admin/version`; see `VersionFollower.switch`."""
        return await self._served.switch(version)

    async def follow(self) -> None:
        """Poll the served-version record and the key file, and apply changes. Does not return."""
        polls = [_poll("switch to the recorded version", self._served.follow_record)]
        if self._keys:
            # A loop of its own: a switch may take minutes, and must not delay a key's revocation.
            polls.append(_poll("read the keys", partial(asyncio.to_thread, self._keys.refresh)))
        await asyncio.gather(*polls)

    @property
    def _encoder(self) -> Any:
        if self._encoder_or_none is None:
            raise InputError("the index names no model to encode texts; send 'embeddings', or serve with --model")
        return self._encoder_or_none

    @property
    def _model(self) -> str | None:
        info = self._served.manifest.model
        name = self.settings.model or (info.name if info else None)
        # Clients get no paths of this machine. Other names are those of the Hugging Face hub.
        is_path = name and (name.startswith(("/", ".", "~")) or name.count("/") > 1 or os.path.isdir(name))
        return base_name(name) if name and (is_path or is_uri(name)) else name

    def _deadline(self, timeout_ms: int | None) -> float:
        timeout_s = self.settings.timeout_s if timeout_ms is None else timeout_ms / 1000
        return time.monotonic() + min(timeout_s, self.settings.timeout_s)

    async def _await_encoder(self, response: Any, deadline: float) -> Any:
        """The encoder's response. Raises `UnavailableError` if it fails or times out."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await response
        except TimeoutError:
            raise UnavailableError("the encoder timed out") from None
        except Exception as error:
            raise UnavailableError(f"the encoder is unavailable ({type(error).__name__})") from error

    async def _embed(self, texts: list[str], deadline: float, *, is_query: bool) -> list[NDArray[np.float32]]:
        embeddings, n_cached = await self._await_encoder(self._encoder.embed.remote(texts, is_query), deadline)
        metrics.CACHED.inc(n_cached)
        return list(embeddings)

    async def _read_documents(self, shards: Shards, ids: list[str]) -> dict[str, dict[str, Any]]:
        """Metadata of documents by id; unknown ids are omitted."""
        documents: dict[str, dict[str, Any]] = {}
        for reply in await shards.call_complete("documents", ids):
            documents |= reply
        return documents


async def _result(response: Awaitable[T]) -> T:
    return await response


async def _poll(task: str, step: Callable[[], Awaitable[object]]) -> None:
    """Run a step again and again; after an error, the next poll tries again."""
    while True:
        await asyncio.sleep(_FOLLOW_S)
        try:
            await step()
        except Exception as error:
            log.warning("cannot %s: %r", task, error)


def _unpack(query: Any, dim: int, number: int) -> NDArray[np.float32]:
    if isinstance(query, PackedEmbeddings):
        try:
            return query.unpack(dim)
        except ValueError as error:
            raise InputError(f"query {number}: {error}") from None
    lengths = {len(vector) for vector in query}
    if lengths != {dim}:
        raise InputError(f"query {number} has vectors of dimension {sorted(lengths)}; expected {dim}")
    return np.array(query, dtype=np.float32)


def _pack(array: NDArray[np.float32]) -> PackedEmbeddings:
    return PackedEmbeddings(tokens=len(array), data=base64.b64encode(array.astype("<f4").tobytes()).decode())
