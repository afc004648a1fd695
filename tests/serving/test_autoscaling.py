"""Autoscaling adds replicas under load."""

import pytest

from raycol.index import Index
from tests.serving.by_config import deployed_by_config
from tests.serving.load import clients, heavy

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_shards_get_more_replicas_together(index: Index, ray_local: None) -> None:
    """With the policy of serve/config.yaml, which Serve reads from config files only."""
    from ray import serve

    def counts() -> list[int]:
        deployments = serve.status().applications["raycol"].deployments
        return [deployments[f"shard-{n:04d}"].replica_states.get("RUNNING", 0) for n in range(2)]

    def patient(number: int) -> dict:
        # Long time limit: on a slow machine these take long until replicas are added.
        return {**heavy(number), "timeout_ms": 60_000}

    args = {"index": index.uri, "shards": 2, "max_replicas": 2, "timeout_s": 60}
    policy = {"policy_function": "raycol.serving.scaling:scale_together"}
    with deployed_by_config(args, autoscaling_policy=policy) as url:
        assert counts() == [1, 1]
        with clients(url, patient, 8) as load:
            load.wait(lambda answers: counts() == [2, 2], timeout=90)
        assert set(load.statuses) <= {200, 429}
