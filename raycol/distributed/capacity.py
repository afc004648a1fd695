"""Room for workers on a Ray cluster: what it has now, and what its autoscaler may add."""

from __future__ import annotations

import time
from collections.abc import Mapping

from raycol.errors import InputError, RaycolError

_LOOK_S = 2.0


def make_room(workers: int, each: Mapping[str, float], wait_s: float = 0.0) -> None:
    """Return once the cluster has what so many workers need.

    An autoscaler starts nodes for what is asked of it, not for what is refused, so where room is waited for it is
    asked for. Workers that have begun keep their nodes by themselves: the request is withdrawn at the end.

    Args:
        workers: how many.
        each: what each needs, by Ray's names of resources.
        wait_s: how long to wait for nodes; 0 asks for none.

    Raises:
        InputError: there is no room, and none is waited for.
        RaycolError: there is none after that time.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    short = lacking(ray.cluster_resources(), workers, each)
    if not short:
        return
    if not wait_s:
        name, missing = next(iter(short.items()))
        needed = workers * each[name]
        raise InputError(
            f"Ray has {needed - missing:g} of the resource {name} here and this needs {needed:g}; "
            "ask for fewer workers or shards, add nodes, or wait for those of an autoscaler (--wait-for-nodes)"
        )
    deadline = time.monotonic() + wait_s
    request_resources(bundles=[dict(each)] * workers)
    try:
        while short := lacking(ray.cluster_resources(), workers, each):
            if time.monotonic() > deadline:
                found = ", ".join(f"{amount:g} {name}" for name, amount in short.items())
                raise RaycolError(
                    f"the cluster still lacks {found} after {wait_s:g} s; is there a node type of that kind, are its "
                    "limits high enough, and are there such machines to be had? The autoscaler's log says more"
                )
            time.sleep(_LOOK_S)
    finally:
        request_resources(bundles=[])


def lacking(have: Mapping[str, float], workers: int, each: Mapping[str, float]) -> dict[str, float]:
    """What is too little for so many workers, and by how much."""
    short = {name: amount * workers - have.get(name, 0.0) for name, amount in each.items()}
    return {name: amount for name, amount in short.items() if amount > 0}
