"""Autoscaling policies: the number of replicas of each deployment.

A search calls every shard and waits for the slowest, so extra replicas for one shard alone do not help:
`scale_together` gives all shards the same number (`serve/config.yaml`). `raycol serve` has no Serve config file and
uses `scale_alone` for each deployment. Serve enforces the limits and delays (docs/serving.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHARD = "shard-"
ENCODER = "query-encoder"
# Target number of requests per replica, running or queued.
TARGET_REQUESTS = 2.0
# Add a replica if steps queue for longer than this on average, however few they are.
MAX_WAIT_S = 0.05
# Metric that replicas report to the autoscaler: mean queueing time of recent steps in seconds.
WAIT_METRIC = "waited_s"


def scale_together(contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
    """Target replicas of each deployment that scales, by id, and an empty policy state.

    Args:
        contexts: Serve's `AutoscalingContext` of each deployment of the application, by id.
    """
    targets = {
        id_: target_replicas(context)
        for id_, context in contexts.items()
        if context.deployment_name.startswith(SHARD) or context.deployment_name == ENCODER
    }
    shards = [id_ for id_ in targets if contexts[id_].deployment_name.startswith(SHARD)]
    busiest = max((targets[id_] for id_ in shards), default=0)
    return targets | dict.fromkeys(shards, busiest), {}


def scale_alone(context: Any) -> tuple[int, dict[str, Any]]:
    """Target replicas of one deployment, and an empty policy state."""
    return target_replicas(context), {}


def target_replicas(context: Any) -> int:
    """Replicas for a deployment's requests and queueing times; Serve clamps them to its limits."""
    by_requests = math.ceil(context.total_num_requests / TARGET_REQUESTS)
    waits = list((context.aggregated_metrics or {}).get(WAIT_METRIC, {}).values())
    by_wait = context.target_num_replicas + 1 if waits and sum(waits) / len(waits) > MAX_WAIT_S else 0
    return int(max(by_requests, by_wait, 1))
