"""Capacity of a Ray cluster: what it has now, and what its autoscaler can add."""

from __future__ import annotations

import time
from collections.abc import Mapping

from raycol.errors import InputError, RaycolError

_POLL_S = 2.0


def wait_for_capacity(workers: int, resources: Mapping[str, float], wait_s: float = 0.0, spare_cpus: int = 0) -> None:
    """Return once the cluster has the resources for all workers, and some CPUs beside them.

    An autoscaler starts nodes for requested resources, not for refused work, so this requests them while it waits. The
    request is withdrawn at the end: running workers keep their nodes.

    Args:
        workers: number of workers.
        resources: what each worker needs, by Ray's resource names.
        wait_s: seconds to wait for nodes; 0 requests none.
        spare_cpus: CPUs beside the workers.

    Raises:
        InputError: the cluster is too small, and `wait_s` is 0.
        RaycolError: the cluster is still too small after `wait_s`.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    missing = missing_resources(ray.cluster_resources(), workers, resources, spare_cpus)
    if not missing:
        return
    if not wait_s:
        name, amount = next(iter(missing.items()))
        needed = amount + ray.cluster_resources().get(name, 0.0)
        raise InputError(
            f"the Ray cluster has {needed - amount:g} {name}, the workers need {needed:g}; ask for fewer workers or "
            "shards, add nodes, or wait for the autoscaler's (`wait_for_nodes=`)"
        )
    deadline = time.monotonic() + wait_s
    request_resources(bundles=[dict(resources)] * workers + [{"CPU": 1}] * spare_cpus)
    try:
        while missing := missing_resources(ray.cluster_resources(), workers, resources, spare_cpus):
            if time.monotonic() > deadline:
                listed = ", ".join(f"{amount:g} {name}" for name, amount in missing.items())
                raise RaycolError(
                    f"the cluster still lacks {listed} after {wait_s:g} s; check in the autoscaler's log that a node "
                    "type has these resources, that its limits are high enough, and that the cloud has such machines"
                )
            time.sleep(_POLL_S)
    finally:
        request_resources(bundles=[])


def missing_resources(
    available: Mapping[str, float], workers: int, resources: Mapping[str, float], spare_cpus: int = 0
) -> dict[str, float]:
    """Return the amount of each resource that the workers need, and CPUs beside them, beyond what is available."""
    needed = {name: amount * workers + (spare_cpus if name == "CPU" else 0) for name, amount in resources.items()}
    missing = {name: amount - available.get(name, 0.0) for name, amount in needed.items()}
    return {name: amount for name, amount in missing.items() if amount > 0}
