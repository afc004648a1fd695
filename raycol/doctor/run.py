"""`raycol doctor`: gather the facts, and check them."""

from __future__ import annotations

from collections.abc import Sequence

from raycol.distributed.session import ray_session
from raycol.doctor.checks import (
    Finding,
    check_authentication,
    check_clocks,
    check_disk,
    check_gpus,
    check_memory,
    check_nodes,
    check_python,
    check_shared,
    check_versions,
)
from raycol.doctor.config import DoctorConfig
from raycol.doctor.facts import NodeFacts, PlanFacts
from raycol.doctor.gather import gather_facts
from raycol.doctor.places import storage_of
from raycol.doctor.room import check_plan_disk, check_plan_memory, check_workers
from raycol.indexing.config import IndexConfig
from raycol.indexing.estimate import estimate_build
from raycol.storage import absolute


def examine(config: DoctorConfig) -> list[Finding]:
    """Check the cluster that this process belongs to, or is pointed at by RAY_ADDRESS.

    Raises:
        InputError: an unusable plan.
        RaycolError: the cluster cannot be reached.
    """
    planned = plan_facts(config) if config.plan else None
    places = list(dict.fromkeys([*map(absolute, config.shared), *([storage_of(planned.out)] if planned else [])]))
    with ray_session():
        nodes = gather_facts(places, config.wait_s)
    return check(nodes, planned)


def plan_facts(config: DoctorConfig) -> PlanFacts:
    """What the planned build takes."""
    build = IndexConfig.load(config.plan)
    done = estimate_build(build)
    return PlanFacts(
        out=build.out,
        index_bytes=done.index_bytes,
        worker_bytes=done.worker_bytes,
        driver_bytes=done.driver_bytes,
        num_workers=build.num_workers,
        resources=build.resources,
        waits=build.wait_for_nodes > 0,
    )


def check(nodes: Sequence[NodeFacts], plan: PlanFacts | None) -> list[Finding]:
    """All findings over the facts."""
    answering = [node for node in nodes if not node.problem]
    first = check_nodes(nodes)
    if not answering:
        return [first]
    needed = plan.resources.get("GPU", 0) * (plan.num_workers or 1) if plan and not plan.waits else 0
    findings = [
        first,
        check_versions(answering),
        check_python(answering),
        check_authentication(answering),
        check_clocks(answering),
        check_gpus(answering, needed),
        check_memory(answering),
        check_disk(answering),
        *check_shared(answering),
    ]
    if plan:
        findings += [
            check_workers(answering, plan),
            check_plan_memory(answering, plan),
            check_plan_disk(answering, plan),
        ]
    return findings
