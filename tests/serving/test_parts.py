"""The parts of serving that need no Ray."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raycol.index.manifest import PartitionInfo
from raycol.index.search import merge_hits
from raycol.serving.limits import BodyLimit
from raycol.serving.schema import SearchRequest
from raycol.serving.shard import ShardHit, assign_partitions


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(1, 8))
def test_partitions_go_to_shards_once_each_and_evenly(tokens: list[int], shards: int) -> None:
    partitions = [
        PartitionInfo(name=f"p{n}", documents=1, tokens=size, id_bytes=1, error=0.0, files={})
        for n, size in enumerate(tokens)
    ]
    assigned = assign_partitions(partitions, shards)
    assert sorted(id_ for ids in assigned for id_ in ids) == sorted(info.name for info in partitions)
    loads = [sum(tokens[int(id_[1:])] for id_ in ids) for ids in assigned]
    # Largest first, each to the emptiest: no two differ by more than one partition.
    assert max(loads) - min(loads) <= max(tokens)
    assert assign_partitions(partitions[::-1], shards) == assigned


def test_shards_merge_by_score_and_then_by_id() -> None:
    first = [ShardHit("b", 2.0, {}), ShardHit("c", 1.0, {})]
    second = [ShardHit("a", 2.0, {}), ShardHit("d", 1.5, {})]
    assert [hit.id for hit in merge_hits([first, second, []], k=3)] == ["a", "b", "d"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": "a", "queries": ["b"]},
        {"queries": []},
        {"queries": ["a"] * 65},
        {"query": "a" * 20_000},
        {"query": "a", "k": 0},
        {"query": "a", "k": 10**9},
        {"query": "a", "surprise": 1},
        {"queries": ["a"] * 64, "k": 1000},
        {"query": 5},
    ],
)
def test_requests_outside_the_limits_are_refused(body: dict) -> None:
    with pytest.raises(ValidationError):
        SearchRequest.model_validate(body)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_the_body_limit_counts_what_arrives(chunks: list[bytes]) -> None:
    messages = [
        {"type": "http.request", "body": chunk, "more_body": n < len(chunks) - 1} for n, chunk in enumerate(chunks)
    ]
    sent, seen = [], []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        seen.append((await receive())["body"])

    asyncio.run(BodyLimit(app, max_bytes=60)({"type": "http"}, receive, send))
    whole = b"".join(chunks)
    if len(whole) <= 60:
        assert seen == [whole]
    else:
        assert not seen
        assert sent[0]["status"] == 413
