"""`raycol doctor`: collect the facts and check them."""

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
from raycol.doctor.plan import check_plan_disk, check_plan_memory, check_workers, existing_folder
from raycol.indexing.config import IndexConfig
from raycol.indexing.estimate import estimate_build
from raycol.storage import absolute


def examine(config: DoctorConfig) -> list[Finding]:
    """Check the cluster that this process belongs to, or the one RAY_ADDRESS names.

    Raises:
        InputError: the plan is invalid.
        RaycolError: the cluster cannot be reached.
    """
    plan = plan_facts(config) if config.plan else None
    uris = list(dict.fromkeys([*map(absolute, config.shared), *([existing_folder(plan.out)] if plan else [])]))
    with ray_session():
        nodes = gather_facts(uris, config.wait_s)
    return check(nodes, plan)


def plan_facts(config: DoctorConfig) -> PlanFacts:
    """Estimate the requirements of the planned build."""
    build = IndexConfig.load(config.plan)
    estimate = estimate_build(build)
    return PlanFacts(
        out=build.out,
        index_bytes=estimate.index_bytes,
        worker_bytes=estimate.worker_bytes,
        driver_bytes=estimate.driver_bytes,
        num_workers=build.num_workers,
        resources=build.resources,
        waits=build.wait_for_nodes > 0,
    )


def check(nodes: Sequence[NodeFacts], plan: PlanFacts | None) -> list[Finding]:
    """Run all checks. If no node answers, that is the only finding."""
    answering = [node for node in nodes if not node.problem]
    nodes_finding = check_nodes(nodes)
    if not answering:
        return [nodes_finding]
    needed = plan.resources.get("GPU", 0) * (plan.num_workers or 1) if plan and not plan.waits else 0
    findings = [
        nodes_finding,
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
