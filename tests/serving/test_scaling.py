"""Autoscaling policies."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raycol.serving.scaling import MAX_WAIT_S, TARGET_REQUESTS, WAIT_METRIC, scale_alone, scale_together


def context(name: str, requests: float, replicas: int = 1, waits: tuple[float, ...] = ()) -> Any:
    return SimpleNamespace(
        deployment_name=name,
        total_num_requests=requests,
        target_num_replicas=replicas,
        aggregated_metrics={WAIT_METRIC: dict(enumerate(waits))} if waits else None,
    )


def decided(*contexts: Any) -> dict[str, int]:
    decisions, states = scale_together({found.deployment_name: found for found in contexts})
    assert not states
    return decisions


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=8), st.floats(0, 1000))
def test_shards_scale_together_and_the_encoder_independently(requests: list[float], encoding: float) -> None:
    shards = [context(f"shard-{n:04d}", number) for n, number in enumerate(requests)]
    decisions = decided(*shards, context("query-encoder", encoding), context("gateway", 500))
    assert "gateway" not in decisions
    of_shards = {decisions[shard.deployment_name] for shard in shards}
    assert len(of_shards) == 1
    (replicas,) = of_shards
    assert replicas >= 1
    assert all(number <= TARGET_REQUESTS * replicas for number in requests)
    assert replicas == 1 or any(number > TARGET_REQUESTS * (replicas - 1) for number in requests)
    assert (
        (decisions["query-encoder"] - 1) * TARGET_REQUESTS
        <= encoding
        <= max(1, decisions["query-encoder"]) * TARGET_REQUESTS
    )


def test_queueing_adds_a_replica() -> None:
    quiet = (MAX_WAIT_S / 2, MAX_WAIT_S / 4)
    slow = (MAX_WAIT_S * 2, MAX_WAIT_S)
    assert decided(context("shard-0000", 1, 3, quiet), context("shard-0001", 1, 3, quiet)) == {
        "shard-0000": 1,
        "shard-0001": 1,
    }
    assert decided(context("shard-0000", 1, 3, slow), context("shard-0001", 1, 3, quiet)) == {
        "shard-0000": 4,
        "shard-0001": 4,
    }
    assert scale_alone(context("query-encoder", 3 * TARGET_REQUESTS)) == (3, {})
