"""Whether a cluster has the workers, memory and disk space that `raycol index plan` estimates for a build."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from raycol.core.memory import size
from raycol.doctor.checks import Finding
from raycol.doctor.facts import NodeFacts, PlanFacts

# Merging keeps the small partitions until the merged ones are written.
_COPIES = 2


def existing_folder(out: str) -> str:
    """The nearest existing parent of a path that may not exist yet; a URI unchanged."""
    if "://" in out:
        return out
    path = Path(out).absolute()
    return str(next(folder for folder in (path, *path.parents) if os.path.isdir(folder)))


def workers_on(node: NodeFacts, plan: PlanFacts) -> int:
    """Number of the build's workers that Ray may place on a node at once."""
    fits = min(math.floor(node.resources.get(name, 0) / amount + 1e-9) for name, amount in plan.resources.items())
    return min(fits, plan.num_workers) if plan.num_workers else fits


def check_workers(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """The cluster fits every worker of the build."""
    fits = sum(workers_on(node, plan) for node in nodes)
    each = ",".join(f"{name}={amount:g}" for name, amount in plan.resources.items())
    needed = plan.num_workers or 1
    if fits < needed and plan.waits:
        return Finding("plan: workers", "not checked", f"{fits} of {needed} fit now; the build waits for nodes")
    if fits < needed:
        fix = "ask for fewer workers (num_workers) or less for each (resources), or add nodes"
        return Finding("plan: workers", "failed", f"{fits} of {needed} workers with {each} each fit", fix)
    return Finding("plan: workers", "ok", f"{fits} workers with {each} each fit")


def check_plan_memory(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """Every node has memory for the workers that Ray may place there, and the head also for the driver."""
    problems = []
    for node in nodes:
        if node.memory is None:
            continue
        n = workers_on(node, plan)
        needed = n * plan.worker_bytes + (plan.driver_bytes if node.is_head else 0)
        if needed > node.memory.free:
            problems.append(f"{node.node}: {size(needed)} for {n} workers, {size(node.memory.free)} free")
    if problems:
        fix = (
            f"reserve memory, so that Ray places fewer workers there (resources: memory={plan.worker_bytes:.2g} and "
            "the rest), or lower docs_per_partition"
        )
        return Finding("plan: memory", "failed", "; ".join(problems), fix)
    return Finding(
        "plan: memory", "ok", f"{size(plan.worker_bytes)} a worker, {size(plan.driver_bytes)} for the driver"
    )


def check_plan_disk(nodes: Sequence[NodeFacts], plan: PlanFacts) -> Finding:
    """The index's storage has space for the index and for the partitions being merged."""
    uri = existing_folder(plan.out)
    needed = _COPIES * plan.index_bytes
    usages = [shared.usage for node in nodes if (shared := node.shared.get(uri)) and shared.usage]
    if not usages:
        return Finding("plan: disk", "not checked", f"{size(needed)} needed at {plan.out}; its free space is unknown")
    free = min(usage.free for usage in usages)
    detail = f"{size(needed)} needed at {plan.out} during the build, {size(free)} free"
    if free < needed:
        return Finding("plan: disk", "failed", detail, "free space there, choose another `out`, or use fewer bits")
    return Finding("plan: disk", "ok", detail)
