"""What an endpoint does with each request: encode, ask the shards, put together. HTTP is in `gateway`."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
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
from raycol.errors import InputError, RaycolError
from raycol.index.format.document import check_embeddings
from raycol.index.format.manifest import Manifest, read_manifest, versions
from raycol.index.search.effort import resolve
from raycol.index.search.filters import parse_filter
from raycol.index.search.shard import Selection, whole_size
from raycol.serving import metrics, scatter
from raycol.serving.circuit_breaker import Breaker
from raycol.serving.deploy import check_same_model, manifest_to_serve
from raycol.serving.http.middleware import REQUEST_ID, GuardSettings, Hosts
from raycol.serving.keys import WatchedKeys
from raycol.serving.probing import Probing, centroids_once
from raycol.serving.served_version import current_version, read_pin, write_pin
from raycol.serving.shard import ShardReply
from raycol.storage import open_store

T = TypeVar("T")

# How often the record of the version to serve, and the keys, are looked at.
_FOLLOW_S = 2.0
_STATUS_S = 2.0
# For so long what was found is told again to whoever asks: anybody may, and as often as they like.
_READY_S = 1.0
_SWITCH_S = 600.0
_SWITCH_ATTEMPTS = 5
# What is left of a request's time when its shards are given up on, to put an answer together.
_SPARED = 0.05

log = logging.getLogger("ray.serve")


class UnavailableError(RaycolError):
    """A shard or the encoder does not answer, or not in time."""


@dataclass(frozen=True)
class Settings:
    """What a gateway is told when it is deployed; `seen` is the time of the choice of a version known then."""

    index: str
    version: int
    seen: int
    model: str | None
    timeout_s: float
    max_requests: int
    keys: str | None
    cors: tuple[str, ...]
    host: str | None = None
    allowed_hosts: tuple[str, ...] = ()


class GatewayState:
    """One gateway's view: the version it serves, the shards' and the encoder's handles.

    `encoder` is None where no model is known: queries come as embeddings then, and texts are refused.
    """

    def __init__(self, settings: Settings, encoder: Any, shards: Sequence[Any]) -> None:
        self.settings = settings
        self._encoder_or_none = encoder
        self._shards = list(shards)
        self._breakers = [Breaker(str(number), partial(_alive, shard)) for number, shard in enumerate(self._shards)]
        self._store = open_store(settings.index)
        self._manifest = read_manifest(self._store, current_version(self._store, settings.version, settings.seen))
        # The time of the choice of a version that is served, or has been looked at.
        self._seen = settings.seen
        self._switching = asyncio.Lock()
        self._looking: asyncio.Task[Health] | None = None
        self._looked = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._probing: Probing | None = None
        self._probing = self._probing_of(self._manifest)
        metrics.VERSION.set(self._manifest.version)
        self._keys = None if settings.keys is None else WatchedKeys(settings.keys)
        # A key is what a page of another name does not have.
        hosts = None if self._keys and not settings.allowed_hosts else Hosts(settings.host, settings.allowed_hosts)
        self.rules = GuardSettings(settings.max_requests, self._scope_of if self._keys else None, settings.cors, hosts)

    def _scope_of(self, key: str | None) -> str | None:
        # The keys of this moment: they may have been read again.
        return self._keys.keys.scope_of(key) if self._keys else None

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Answer `POST /v1/search`."""
        started = time.perf_counter()
        manifest, probing, deadline = self._manifest, self._probing, self._deadline(request.timeout_ms)
        if request.filter is not None:
            parse_filter(request.filter, manifest.columns)
        if request.embeddings is not None:
            queries = [
                check_embeddings(_unpacked(query, manifest.dim, number), manifest.dim, f"query {number}")
                for number, query in enumerate(request.embeddings)
            ]
        else:
            queries = await self._embed(request.texts, deadline, is_query=True)
        encoded = time.perf_counter()
        shards = self._ask_shards(manifest.version, deadline)
        try:
            found = await scatter.search(
                shards,
                queries,
                k=request.k,
                settings=resolve(request.effort, manifest.tuned, manifest.codebook.n_centroids, request.k),
                size=whole_size(manifest),
                n_centroids=manifest.codebook.n_centroids,
                selection=Selection(
                    request.filter, None if request.ids is None else tuple(dict.fromkeys(request.ids))
                ),
                probe=probing,
            )
        except TimeoutError as error:
            raise UnavailableError(str(error)) from None
        partial = found.answered < len(self._shards)
        if partial:
            metrics.PARTIAL.inc()
            if not found.answered or not request.allow_partial:
                raise _incomplete(shards, found.answered)
        metrics.QUERIES.inc(len(queries))
        stages = {"encode": encoded - started, **found.seconds, "total": time.perf_counter() - started}
        for stage, seconds in stages.items():
            metrics.STAGES.labels(stage).observe(seconds)
        return SearchResponse(
            results=[[SearchHit.of(*hit) for hit in hits] for hits in found.results],
            version=manifest.version,
            partial=partial,
            shards=ShardCount(total=len(self._shards), answered=found.answered),
            took_ms={stage: round(1000 * seconds, 2) for stage, seconds in stages.items()},
        )

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """Answer `POST /v1/rerank`."""
        started = time.perf_counter()
        manifest, deadline = self._manifest, self._deadline(request.timeout_ms)
        unknown: list[str] = []
        count, partial = None, False
        if request.documents is not None:
            scores = await self._in_time(self._encoder.score.remote(request.query, request.documents), deadline)
            results = [Reranked(index=place, score=score) for place, score in enumerate(scores)]
            results.sort(key=lambda result: (-result.score, result.index))
        else:
            queries = await self._embed([request.query], deadline, is_query=True)
            ids = list(dict.fromkeys(request.ids or ()))
            shards = self._ask_shards(manifest.version, deadline)
            answers = await self._ask_every(shards, "rerank", (queries, [ids]), allow_partial=request.allow_partial)
            results = [Reranked(id=hit.id, score=hit.score) for answer in answers for hit in answer[0]]
            results.sort(key=lambda result: (-result.score, result.id))
            count = ShardCount(total=len(self._shards), answered=len(answers))
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
        found = await self._embed(request.texts, self._deadline(None), is_query=request.is_query)
        embeddings = [_packed(array) for array in found] if request.packed else [array.tolist() for array in found]
        return EmbeddingsResponse(embeddings=embeddings, dim=self._manifest.dim, model=self._model)

    async def explain(self, request: ExplainRequest) -> ExplainResponse:
        """Answer `POST /v1/explain`."""
        manifest, deadline = self._manifest, self._deadline(None)
        (query_QD,) = await self._embed([request.query], deadline, is_query=True)
        shards = self._ask_shards(manifest.version, deadline)
        found = await self._ask_every(shards, "explain", (query_QD, request.id))
        matches = next((answer for answer in found if answer is not None), None)
        if matches is None:
            raise InputError(f"document {request.id!r} is not in version {manifest.version}")
        text = _content((await self._documents(shards, [request.id])).get(request.id, {}))
        tokens = await self._in_time(self._encoder.tokens.remote(request.query, True), deadline)
        document = [] if text is None else await self._in_time(self._encoder.tokens.remote(text, False), deadline)
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
        version = self._manifest.version
        found = await self._documents(self._ask_shards(version, self._deadline(None)), [id_])
        if id_ not in found:
            return None
        hit = SearchHit.of(id_, 0.0, found[id_])
        return DocumentResponse(id=id_, text=hit.text, metadata=hit.metadata, omitted=hit.omitted, version=version)

    async def describe(self) -> IndexDescription:
        """Answer `GET /v1/index`."""
        manifest = self._manifest
        return IndexDescription(
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
        """Answer `GET /readyz`, with what was found a moment ago where it was."""
        looking, now = self._looking, time.monotonic()
        if looking is None or (looking.done() and now - self._looked > _READY_S):
            self._looked = now
            looking = self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(looking)

    async def _look(self) -> Health:
        """Ask every shard and the encoder whether they are there."""
        asked = [shard.status.remote() for shard in self._shards]
        if self._encoder_or_none is not None:
            asked.append(self._encoder.status.remote())
        waiting = [asyncio.ensure_future(_result(response)) for response in asked]
        await asyncio.wait(waiting, timeout=_STATUS_S)
        there = [task.done() and not task.cancelled() and task.exception() is None for task in waiting]
        for task in waiting:
            task.cancel()
        count = ShardCount(total=len(self._shards), answered=sum(there[: len(self._shards)]))
        return Health(status="ok" if all(there) else "not ready", version=self._manifest.version, shards=count)

    async def switch(self, version: int | None) -> VersionResponse:
        """Serve another version: every replica opens it, then it is recorded, then it is served.

        Raises:
            InputError: there is no such version, or it is of another model.
            UnavailableError: a shard could not open it; what was served is served on.
        """
        async with self._switching:
            before = self._manifest
            manifest = await asyncio.to_thread(manifest_to_serve, self._store, before, version)
            await self._prepare(manifest.version)
            probing = await asyncio.to_thread(self._probing_of, manifest)
            pin = await asyncio.to_thread(write_pin, self._store, manifest.version, newest=version is None)
            # A replica that came meanwhile may have read the record before, and not been asked with the others.
            try:
                await self._prepare(manifest.version, attempts=1)
            except UnavailableError as error:
                log.warning("%s; its replicas open it when they are asked", error)
            self._serve(manifest, probing, pin.at)
            return VersionResponse(version=manifest.version, before=before.version)

    async def follow(self) -> None:
        """Serve, from now on, what another gateway of this endpoint was told to; learn of new and revoked keys."""
        # Each by itself: a switch may take minutes, a revoked key may not.
        await asyncio.gather(self._follow_version(), self._follow_keys())

    async def _follow_keys(self) -> None:
        while self._keys:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await asyncio.to_thread(self._keys.refresh)
            except Exception as error:  # as below
                log.warning("the keys are not known: %r", error)

    async def _follow_version(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                async with self._switching:
                    pin = await asyncio.to_thread(read_pin, self._store)
                    if pin is not None and pin.at != self._seen:
                        manifest = await asyncio.to_thread(read_manifest, self._store, pin.version)
                        check_same_model(self._manifest, manifest)
                        await self._prepare(manifest.version)
                        self._serve(manifest, await asyncio.to_thread(self._probing_of, manifest), pin.at)
            except Exception as error:  # whatever fails now may not fail in two seconds
                log.warning("the version to serve is not known: %r", error)

    def _serve(self, manifest: Manifest, probing: Probing | None, chosen_at: int) -> None:
        log.warning("serving version %d in place of %d", manifest.version, self._manifest.version)
        self._manifest, self._probing, self._seen = manifest, probing, chosen_at
        metrics.VERSION.set(manifest.version)

    async def _prepare(self, version: int, attempts: int = _SWITCH_ATTEMPTS) -> None:
        """Have every replica of every shard open a version, and keep the one that is served."""
        for attempt in range(1, attempts + 1):
            asked = [
                shard.broadcast("prepare", version, self._manifest.version).results_async() for shard in self._shards
            ]
            try:
                async with asyncio.timeout(_SWITCH_S):
                    await asyncio.gather(*asked)
                return
            except Exception as error:
                # A replica that died meanwhile is replaced soon, and its successor asked.
                if attempt == attempts:
                    detail = f"version {version} could not be opened by every shard ({error!r:.200})"
                    raise UnavailableError(detail) from error
                await asyncio.sleep(attempt)

    @property
    def _encoder(self) -> Any:
        if self._encoder_or_none is None:
            raise InputError("no model is known here that encodes texts; give 'embeddings', or serve with --model")
        return self._encoder_or_none

    @property
    def _model(self) -> str | None:
        known = self._manifest.model
        return self.settings.model or (known.name if known else None)

    def _deadline(self, timeout_ms: int | None) -> float:
        asked = self.settings.timeout_s if timeout_ms is None else timeout_ms / 1000
        return time.monotonic() + min(asked, self.settings.timeout_s)

    async def _in_time(self, response: Any, deadline: float) -> Any:
        """What the encoder answers."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await response
        except TimeoutError:
            raise UnavailableError("the encoder did not answer in time") from None
        except Exception as error:
            raise UnavailableError(f"the encoder is unavailable ({type(error).__name__})") from error

    async def _embed(self, texts: list[str], deadline: float, *, is_query: bool) -> list[NDArray[np.float32]]:
        embeddings, known = await self._in_time(self._encoder.embed.remote(texts, is_query), deadline)
        metrics.CACHED.inc(known)
        return list(embeddings)

    def _probing_of(self, manifest: Manifest) -> Probing | None:
        """What finds probes in a version; None where its shards do that themselves."""
        if not centroids_once(len(self._shards), manifest.codebook.n_centroids):
            return None
        served = self._probing
        same = served is not None and served.codebook_name == manifest.codebook.name
        return served if same else Probing(self._store, manifest, self._pool)

    def _ask_shards(self, version: int, deadline: float) -> scatter.Shards:
        # A little before the deadline, so that what the others found is answered by then.
        spared = deadline - _SPARED * max(0.0, deadline - time.monotonic())
        asks = [self._ask(number, version, spared) for number in range(len(self._shards))]

        def on_failure(number: int, failure: BaseException) -> None:
            reason = _reason(failure)
            metrics.SHARD_FAILURES.labels(str(number), reason).inc()
            if reason == "down":
                return  # the log says so once
            log.warning("request %s: shard %d %s: %r", REQUEST_ID.get(), number, reason, failure)

        return scatter.Shards(asks, spared, on_failure, self._breakers)

    @cached_property
    def _ask_handles(self) -> list[Any]:
        """Made in the first request, since handles belong to the event loop that they are made in."""
        # What crosses is arrays, tuples and plain values: Serve's cloudpickle would take twice the time for them.
        plain = {"request_serialization": "pickle", "response_serialization": "pickle"}
        return [shard.options(method_name="ask", **plain) for shard in self._shards]

    def _ask(self, number: int, version: int, deadline: float) -> scatter.Ask:
        async def ask(method: str, *arguments: Any) -> Any:
            budget = deadline - time.monotonic()
            response = self._ask_handles[number].remote(version, method, arguments, budget, REQUEST_ID.get())
            try:
                told: ShardReply = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except Exception as error:
                if isinstance(cause := getattr(error, "cause", None), InputError):
                    raise cause from None
                raise
            name = str(number)
            metrics.SHARD_WORK.labels(name, method).observe(told.worked_s)
            metrics.SHARD_WAIT.labels(name).observe(told.waited_s)
            metrics.SHARD_AT_HAND.labels(name).set(told.at_hand)
            metrics.SHARD_MEMORY.labels(name).set(told.memory)
            return told.answer

        return ask

    async def _ask_every(
        self, shards: scatter.Shards, method: str, arguments: tuple[Any, ...], *, allow_partial: bool = False
    ) -> list[Any]:
        """The answers of all shards. Raises `UnavailableError` where one has none, unless that is allowed."""
        answers = await shards.ask_each(method, *arguments)
        if len(answers) < len(self._shards) and not (allow_partial and answers):
            raise _incomplete(shards, len(answers))
        return [answers[number] for number in sorted(answers)]

    async def _documents(self, shards: scatter.Shards, ids: list[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for answer in await self._ask_every(shards, "documents", (ids,)):
            found |= answer
        return found


def _incomplete(shards: scatter.Shards, answered: int) -> UnavailableError:
    reasons = Counter(map(_reason, shards.failures.values()))
    listed = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    return UnavailableError(f"{answered} of {len(shards)} shards answered ({listed})")


def _reason(failure: BaseException) -> str:
    """Why a shard has not answered."""
    if isinstance(failure, scatter.ShardDownError):
        return "down"
    return "late" if isinstance(failure, TimeoutError) else "failed"


async def _alive(shard: Any) -> None:
    await shard.status.remote()


async def _result(response: Awaitable[T]) -> T:
    return await response


def _unpacked(query: Any, dim: int, number: int) -> NDArray[np.float32]:
    if isinstance(query, PackedEmbeddings):
        try:
            return query.unpack(dim)
        except ValueError as error:
            raise InputError(f"query {number}: {error}") from None
    lengths = {len(vector) for vector in query}
    if lengths != {dim}:
        raise InputError(f"query {number} has vectors of {sorted(lengths)} numbers; expected {dim}")
    return np.array(query, dtype=np.float32)


def _packed(array: NDArray[np.float32]) -> PackedEmbeddings:
    return PackedEmbeddings(tokens=len(array), data=base64.b64encode(array.astype("<f4").tobytes()).decode())


def _content(kept: dict[str, Any]) -> str | None:
    """A document's title and text as they were encoded."""
    if not isinstance(kept.get("text"), str):
        return None
    return f"{kept.get('title') or ''} {kept['text']}".strip()
