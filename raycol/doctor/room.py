"""Whether a build has the room that `raycol index plan` says it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycol.core.memory import size
from raycol.doctor.checks import Finding
from raycol.doctor.facts import NodeFacts, PlanFacts
from raycol.doctor.places import storage_of

# While small partitions are merged, they and what is made of them are there together.
_COPIES = 2


def workers_on(node: NodeFacts, plan: PlanFacts) -> int:
    """How many of a build's workers Ray may put on a node at once."""
    room = min(math.floor(node.resources.get(name, 0) / amount + 1e-9) for name, amount in plan.resources.items())
    return min(room, plan.num_workers) if plan.num_workers else room


def check_workers(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """There is a place for every worker."""
    total = sum(workers_on(node, plan) for node in nodes)
    each = ",".join(f"{name}={amount:g}" for name, amount in plan.resources.items())
    wanted = plan.num_workers or 1
    if total < wanted and plan.waits:
        return Finding("plan: workers", "not checked", f"room for {total} now; the build waits for nodes")
    if total < wanted:
        mend = "ask for fewer workers (num_workers) or less for each (resources), or add nodes"
        return Finding("plan: workers", "wrong", f"room for {total} of {each} each, planned are {wanted}", mend)
    return Finding("plan: workers", "ok", f"room for {total} of {each} each")


def check_plan_memory(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """Every node has the memory for the workers that may be put there, and the head for the process that starts it."""
    wrong = []
    for node in nodes:
        if node.memory is None:
            continue
        n = workers_on(node, plan)
        needed = n * plan.worker_bytes + (plan.driver_bytes if node.is_head else 0)
        if needed > node.memory.free:
            wrong.append(f"{node.node}: {size(needed)} for {n} workers, {size(node.memory.free)} free")
    if wrong:
        mend = (
            f"keep Ray from putting more there than fit (resources: memory={plan.worker_bytes:.2g} and the rest), "
            "or make docs_per_partition smaller"
        )
        return Finding("plan: memory", "wrong", "; ".join(wrong), mend)
    each = f"{size(plan.worker_bytes)} a worker, {size(plan.driver_bytes)} where it starts"
    return Finding("plan: memory", "ok", each)


def check_plan_disk(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """Where the index goes, there is room for it and for what is merged."""
    place = storage_of(plan.out)
    needed = _COPIES * plan.index_bytes
    rooms = [shared.room for node in nodes if (shared := node.shared.get(place)) and shared.room]
    if not rooms:
        return Finding("plan: disk", "not checked", f"{size(needed)} at {plan.out}, whose room is not known")
    free = min(room.free for room in rooms)
    found = f"{size(needed)} at {plan.out} while it is built, {size(free)} free"
    if free < needed:
        return Finding("plan: disk", "wrong", found, "make room there, put it elsewhere (out), or keep fewer bits")
    return Finding("plan: disk", "ok", found)
