"""Gateway state, shards and encoder, without Ray."""

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.client.schema import RerankRequest, SearchRequest
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.index.format.manifest import read_manifest
from raycol.index.search.plan import SearchPlan
from raycol.index.shard import Selection
from raycol.serving import circuit_breaker as breaker
from raycol.serving import gateway_state as state_module
from raycol.serving import shard as shard_module
from raycol.serving.gateway_state import GatewaySettings, GatewayState
from raycol.serving.keys import new_key, revoke_key
from raycol.serving.shard import Shard
from raycol.serving.shard_calls import UnavailableError
from raycol.storage import Store
from tests.conftest import make_clustered, make_passages
from tests.serving.handles import Handle, Method
from tests.serving.indexes import index_of_texts


def state_of(
    uri: str, shards: Iterable[Handle], encoder: Handle | None = None, keys: Path | None = None
) -> GatewayState:
    settings = GatewaySettings(uri, 1, 0, None, 5.0, 64, None if keys is None else str(keys), ())
    return GatewayState(settings, encoder, list(shards))


def test_a_partial_rerank_reports_no_unknown_ids(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.serving.encoder import QueryEncoder

    index = index_of_texts(tmp_path / "index", tiny_colbert, make_passages(40))
    encoder = Handle(QueryEncoder(str(tiny_colbert), None))
    ids = [*(passage["_id"] for passage in make_passages(40)[::4]), "nowhere"]

    async def run() -> None:
        shards = [Handle(Shard(index.uri, 1, 0, number, 2)) for number in range(2)]
        whole = await state_of(index.uri, shards, encoder).rerank(RerankRequest(query="rain", ids=ids))
        assert (whole.partial, whole.unknown, len(whole.results)) == (False, ["nowhere"], 10)
        assert whole.shards is not None
        assert (whole.shards.total, whole.shards.answered) == (2, 2)
        lost = state_of(index.uri, [shards[0], Handle(None)], encoder)
        with pytest.raises(UnavailableError, match="1 of 2 shards"):
            await lost.rerank(RerankRequest(query="rain", ids=ids))
        partly = await lost.rerank(RerankRequest(query="rain", ids=ids, allow_partial=True))
        assert partly.shards is not None
        assert (partly.partial, partly.unknown, partly.shards.answered) == (True, [], 1)
        assert 0 < len(partly.results) < 10
        assert [hit for hit in whole.results if hit in partly.results] == partly.results

    asyncio.run(run())


class Dying(Handle):
    """Hangs while it is `dead`, and records the calls."""

    dead = False

    def __getattr__(self, name: str) -> Any:
        answers = super().__getattr__(name)

        async def call(*arguments: Any) -> Any:
            if self.dead:
                self.calls.append(name)
                await asyncio.Event().wait()
            return await answers.remote(*arguments)

        return Method(call)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_a_dead_shard_delays_one_search_and_recovers(
    store: Store, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    monkeypatch.setattr(breaker, "PING_TIMEOUT_S", 0.1)
    manifest = read_manifest(store, 1)
    query = [[1.0, *[0.0] * (manifest.dim - 1)]]

    async def run() -> None:
        last = Dying(Shard(store.uri, 1, 0, shards - 1, shards))
        handles = [*(Handle(Shard(store.uri, 1, 0, n, shards)) for n in range(shards - 1)), last]
        state = state_of(store.uri, handles)
        monkeypatch.setattr(state, "settings", replace(state.settings, timeout_s=600.0))

        async def answered(timeout_ms: int | None = None) -> int:
            body = {"embeddings": [query], "k": 100, "timeout_ms": timeout_ms}
            try:
                response = await state.search(SearchRequest.model_validate(body))
            except UnavailableError:
                return 0
            assert response.partial == (response.shards.answered < shards)
            return response.shards.answered

        assert await answered() == shards
        last.dead = True
        assert await answered(300) == shards - 1
        await asyncio.sleep(0.5)
        # Without the circuit breaker each of these would take the endpoint's `timeout_s`.
        async with asyncio.timeout(60):
            assert [await answered() for _ in range(5)] == [shards - 1] * 5
        assert last.calls.count("call") < 6
        # The background retry still hangs.
        last.dead = False
        for task in state._handles.breakers[-1]._tasks:
            task.cancel()
        async with asyncio.timeout(60):
            while await answered() < shards:
                await asyncio.sleep(0.05)

    asyncio.run(run())


def test_short_timeouts_do_not_open_the_circuit_breaker(store: Store) -> None:
    """A client with a time limit of a millisecond must not take a shard down for others."""

    async def run() -> None:
        alive = asyncio.Event()

        async def ping() -> None:
            alive.set()

        now = 0.0
        watched = breaker.CircuitBreaker("0", ping, lambda: now)
        for _ in range(100):
            watched.record_timeout(0.001)
            await asyncio.sleep(0)
        await asyncio.wait_for(alive.wait(), 60)
        while watched._tasks:
            await asyncio.sleep(0)
        assert not watched.is_down
        watched.record_timeout(10.0)
        assert not watched.is_down
        watched.record_success()
        watched.record_timeout(10.0)
        assert not watched.is_down
        watched.record_timeout(10.0)
        assert watched.is_down

    asyncio.run(run())


def test_readiness_is_cached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        shard = Handle(Shard(store.uri, 1, 0, 0, 1))
        state = state_of(store.uri, [shard])
        replies = await asyncio.gather(*(state.ready() for _ in range(500)))
        assert {health.status for health in replies} == {"ok"}
        assert shard.calls == ["status"]
        monkeypatch.setattr(state_module, "_READY_S", 0.0)
        assert (await state.ready()).status == "ok"
        assert shard.calls == ["status", "status"]
        lost = state_of(store.uri, [shard, Handle(None)])
        assert (await lost.ready()).status == "not ready"

    asyncio.run(run())


def test_keys_are_revoked_during_a_version_switch(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_FOLLOW_S", 0.02)
    file = tmp_path / "keys.json"
    key = new_key(file, "one", "read")
    new_key(file, "two", "read")

    async def run() -> None:
        opening, opened = asyncio.Event(), asyncio.Event()

        class Slow:
            """Blocks in `prepare` until `opened` is set."""

            async def prepare(self, version: int, served: int) -> None:
                opening.set()
                await opened.wait()

        state = state_of(store.uri, [Handle(Slow())], keys=file)
        follow_task = asyncio.create_task(state.follow())
        switch_task = asyncio.create_task(state.switch(2))
        await opening.wait()
        scope_of = state.guard_settings.scope_of
        assert scope_of is not None
        assert scope_of(key) == "read"
        revoke_key(file, "one")
        async with asyncio.timeout(20):
            while scope_of(key):
                await asyncio.sleep(0.01)
        assert not switch_task.done()
        opened.set()
        assert (await switch_task).version == 2
        follow_task.cancel()

    asyncio.run(run())


def test_a_starting_replica_opens_a_version_recorded_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = iter([1, 2, 2])
    monkeypatch.setattr(shard_module, "current_version", lambda *_: next(chosen))
    assert asyncio.run(Shard(store.uri, 1, 0, 0, 1).status()).result == [1, 2]


def test_the_served_version_stays_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when idle, and after other versions were prepared."""
    monkeypatch.setattr(shard_module, "_IDLE_S", 0.0)

    async def run() -> None:
        shard = Shard(store.uri, 1, 0, 0, 1)
        await shard.prepare(2, served=1)
        await shard.prepare(3, served=1)
        assert (await shard.status()).result == [1, 3]
        await shard.prepare(1, served=3)  # back again
        await shard.prepare(2, served=1)
        assert (await shard.status()).result == [1, 2]

    asyncio.run(run())


@pytest.mark.slow
def test_a_slow_filter_is_interrupted_at_the_deadline(tmp_path: Path) -> None:
    """Over all documents it would take 15 s and delay the next request."""
    texts = ["ab" * 2048] * 300
    documents = [
        Document(f"d{n}", array, {"text": text})
        for n, (array, text) in enumerate(zip(make_clustered(300, 16, seed=0), texts, strict=True))
    ]
    index = Index.create(tmp_path / "index", documents)
    slow = Selection(filter=f"text LIKE '%{'ab' * 1000}_{'ab' * 1000}%zz'")

    async def run() -> None:
        shard = Shard(index.uri, 1, 0, 0, 1)
        with pytest.raises(TimeoutError):
            await shard.call(1, "count", (slow,), 0.3, "slow")
        assert (await shard.call(1, "count", (Selection(filter="text LIKE 'ab%'"),), 5.0, "next")).result == 300

    asyncio.run(run())


def test_no_query_starts_after_the_deadline(store: Store) -> None:
    query_QD = np.ones((4, 16), dtype=np.float32)

    async def run() -> None:
        shard = Shard(store.uri, 1, 0, 0, 1)
        plan = SearchPlan(n_rescore=20, n_candidates=20, n_probe=1, exact=False)
        many = ([query_QD] * 100_000, [plan] * 100_000, [np.arange(20)] * 100_000, 10, 0)
        one = tuple(argument[:1] if isinstance(argument, list) else argument for argument in many)
        with pytest.raises(TimeoutError):
            await shard.call(1, "score", many, 0.05, "many")
        assert len((await shard.call(1, "score", one, 5.0, "next")).result) == 1

    asyncio.run(run())


@pytest.mark.slow
def test_concurrent_tokens_and_embeddings_match_sequential_ones(tiny_colbert: Path) -> None:
    """Both would change truncation and padding of a shared tokenizer."""
    from raycol.serving.encoder import QueryEncoder

    texts = [" ".join(["violin piano melody chord"] * 6) + f" {n}" for n in range(12)]
    encoder = QueryEncoder(str(tiny_colbert), None)

    async def run() -> None:
        alone, _ = await encoder.embed(texts, False)
        offsets = await encoder.tokens(texts[0], True)
        for _ in range(15):
            calls = [encoder.tokens(texts[0], True) for _ in range(8)]
            (embeddings, _), *concurrent = await asyncio.gather(encoder.embed(texts, False), *calls)
            assert [len(array) for array in embeddings] == [len(array) for array in alone]
            assert concurrent == [offsets] * 8

    asyncio.run(run())


@pytest.mark.slow
def test_long_queries_are_truncated_in_the_cache(tiny_colbert: Path) -> None:
    from raycol.serving.encoder import QueryEncoder

    encoder = QueryEncoder(str(tiny_colbert), None)

    async def run() -> None:
        long = "rain " * 13_000
        (first,), _ = await encoder.embed([long], True)
        (again,), n_cached = await encoder.embed([long + "fog"], True)
        assert n_cached == 1
        assert np.array_equal(first, again)
        assert max(map(sys.getsizeof, encoder._cache)) < 4096

    asyncio.run(run())


@pytest.mark.slow
def test_long_texts_are_truncated_before_tokenizing(tiny_colbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explanations and searches do not block each other."""
    from raycol.serving import encoder as module

    read: list[int] = []
    offsets = module.token_offsets
    monkeypatch.setattr(
        module, "token_offsets", lambda model, text, query: read.append(len(text)) or offsets(model, text, query)
    )
    encoder = module.QueryEncoder(str(tiny_colbert), None)
    weights = encoder._encoder.state_dict()
    assert all(weights[name] is not None and tensor.data_ptr() == weights[name].data_ptr()
               for name, tensor in encoder._explainer.state_dict().items())  # fmt: skip
    long = "rain wind " * 400_000

    async def run() -> None:
        for is_query in (True, False):
            short = await encoder.tokens(long[:200], is_query)
            with encoder._tokenizer_lock:
                tokens = await asyncio.wait_for(encoder.tokens(long, is_query), 60)
            (array,), _ = await encoder.embed([long], is_query)
            assert len(tokens) == len(array)
            assert tokens == short

    asyncio.run(run())
    assert max(read) < 10_000


def test_texts_without_a_model_are_rejected(store: Store) -> None:
    with pytest.raises(InputError, match="names no model"):
        asyncio.run(state_of(store.uri, []).rerank(RerankRequest(query="rain", documents=["fog"])))


def test_clients_get_the_name_of_a_model_in_a_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    state = state_of(store.uri, [])
    for model in ("models/mine", "./gone/mine", "gone/models/mine", "s3://bucket/mine"):
        state.settings = replace(state.settings, model=model)
        assert asyncio.run(state.describe()).model == "mine"
    state.settings = replace(state.settings, model="lightonai/GTE-ModernColBERT-v1")
    assert asyncio.run(state.describe()).model == "lightonai/GTE-ModernColBERT-v1"
