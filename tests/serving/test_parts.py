"""Partition assignment, merging and request limits, without Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from raycol.client.schema import EmbeddingsRequest, ExplainRequest, RerankRequest, SearchRequest, VersionRequest
from raycol.index.format.manifest import PartitionInfo, TableInfo
from raycol.index.search.pipeline import merge_hits
from raycol.index.shard import assign_partitions
from raycol.serving.scatter import DocumentHit


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(1, 8))
def test_partitions_are_assigned_once_and_evenly(tokens: list[int], shards: int) -> None:
    table = TableInfo(bytes=2, xxh3="0" * 32)
    partitions = [
        PartitionInfo(name=f"p{n}", documents=1, tokens=size, id_bytes=1, error=0.0, files={}, table=table)
        for n, size in enumerate(tokens)
    ]
    assigned = assign_partitions(partitions, shards)
    assert sorted(id_ for ids in assigned for id_ in ids) == sorted(info.name for info in partitions)
    loads = [sum(tokens[int(id_[1:])] for id_ in ids) for ids in assigned]
    # Greedy, largest first: loads differ by at most one partition.
    assert max(loads) - min(loads) <= max(tokens)
    assert assign_partitions(partitions[::-1], shards) == assigned


def test_shards_merge_by_score_and_then_by_id() -> None:
    first = [DocumentHit("b", 2.0, {}), DocumentHit("c", 1.0, {})]
    second = [DocumentHit("a", 2.0, {}), DocumentHit("d", 1.5, {})]
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
def test_requests_outside_the_limits_are_rejected(body: dict) -> None:
    with pytest.raises(ValidationError):
        SearchRequest.model_validate(body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (SearchRequest, {"embeddings": [[[""] * 1000] * 1000] * 64}),
        (SearchRequest, {"embeddings": [[[0.0] * 8, *[[""]] * 1000]] * 64}),
        (SearchRequest, {"embeddings": [[1]] * 64}),
        (SearchRequest, {"embeddings": [{"tokens": 1, "data": "", **{str(n): 0 for n in range(1000)}}] * 64}),
        (SearchRequest, {"queries": [0] * 64}),
        (SearchRequest, {"query": "rain", "ids": [0] * 10_000}),
        (SearchRequest, {str(n): 0 for n in range(1000)}),
        (RerankRequest, {"query": "rain", "documents": [0] * 256}),
        (RerankRequest, {"query": "rain", "ids": [""] * 10_000}),
        (EmbeddingsRequest, {"input": [0] * 64}),
        (ExplainRequest, {"query": "rain", **{str(n): 0 for n in range(1000)}}),
        (VersionRequest, {str(n): 0 for n in range(1000)}),
    ],
)
def test_bodies_full_of_errors_report_only_a_few(kind: type[BaseModel], body: dict) -> None:
    """An error per item would take gigabytes and a minute for a million items."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    assert refused.value.error_count() < 12
