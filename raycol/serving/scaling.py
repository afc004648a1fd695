"""How many replicas an endpoint's deployments get: all shards together, the encoder by itself.

A search asks every shard, so the slowest decides: one shard with more replicas than the others would be of no use.
Plain arithmetic over what Serve's autoscaler hands in (`AutoscalingContext`). Serve itself keeps to the limits, and
waits before it adds and before it removes (docs/serving.md). `serve/config.yaml` names `together`; `raycol serve`,
which has no config file of Serve's, gives each deployment `alone`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHARD = "shard-"
ENCODER = "query-encoder"
# Requests at hand in each replica, at work or waiting, that are aimed at.
TARGET = 2.0
# Replicas in which work waits for so long before it is begun are too few, however short their queue is.
WAIT_S = 0.05
# What a replica tells the autoscaler: seconds that its last pieces of work waited.
WAITED = "waited_s"


def together(contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
    """For each deployment that scales the replicas it should have; nothing is remembered until the next time.

    Args:
        contexts: Serve's context of each deployment of the application, by its id.
    """
    wanted = {
        id_: replicas_wanted(context)
        for id_, context in contexts.items()
        if context.deployment_name.startswith(SHARD) or context.deployment_name == ENCODER
    }
    shards = [id_ for id_ in wanted if contexts[id_].deployment_name.startswith(SHARD)]
    most = max((wanted[id_] for id_ in shards), default=0)
    return wanted | dict.fromkeys(shards, most), {}


def alone(context: Any) -> tuple[int, dict[str, Any]]:
    """The replicas that one deployment should have."""
    return replicas_wanted(context), {}


def replicas_wanted(context: Any) -> int:
    """Replicas that a deployment's queue and its waits call for, beyond its limits perhaps."""
    by_queue = math.ceil(context.total_num_requests / TARGET)
    waits = list((context.aggregated_metrics or {}).get(WAITED, {}).values())
    by_wait = context.target_num_replicas + 1 if waits and sum(waits) / len(waits) > WAIT_S else 0
    return int(max(by_queue, by_wait, 1))
