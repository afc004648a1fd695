"""The checks of `raycol doctor`: plain functions from node facts to findings. A failed one says how to fix it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from raycol.core.memory import size
from raycol.doctor.facts import NodeFacts, Usage

State = Literal["ok", "failed", "not checked"]

# Ray's defaults: it writes no objects to a fuller disk, and kills workers on a node whose memory is fuller.
_FULL = 0.95
# Deadlines, reports and record times are compared across nodes.
_CLOCK_SKEW_S = 2.0
_NODES_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """The result of one check, and how to fix it if it failed."""

    check: str
    state: State
    detail: str
    fix: str = ""


def check_nodes(nodes: Sequence[NodeFacts]) -> Finding:
    """Every node answers."""
    silent = [node for node in nodes if node.problem]
    if silent:
        detail = "; ".join(f"{node.node}: {node.problem}" for node in silent)
        fix = "install raycol and the same versions (constraints.txt) there, or see Ray's logs of that node"
        return Finding("nodes", "failed", detail, fix)
    return Finding("nodes", "ok", f"{len(nodes)} answer")


def check_versions(nodes: Sequence[NodeFacts]) -> Finding:
    """Python and the packages raycol depends on have the same version on every node.

    The local part of a version (+cu128 in torch 2.8.0+cu128) may differ: it names the build for a device.
    """
    names = list(dict.fromkeys(name for node in nodes for name in node.versions))
    mismatches = []
    for name in names:
        by_version = _group(nodes, lambda node, name=name: node.versions.get(name, "").partition("+")[0] or "none")  # type: ignore[misc]
        if len(by_version) > 1:
            mismatches.append(f"{name}: " + ", ".join(f"{value} on {_list(on)}" for value, on in by_version.items()))
    if mismatches:
        fix = "install the same versions on all nodes: pip install -c constraints.txt, with one version of Python"
        return Finding("versions", "failed", "; ".join(mismatches), fix)
    return Finding("versions", "ok", ", ".join(f"{name} {value}" for name, value in nodes[0].versions.items()))


def check_python(nodes: Sequence[NodeFacts]) -> Finding:
    """On the head, `python` is Ray's interpreter: jobs start there as `python -m raycol ...`."""
    heads = [node for node in nodes if node.is_head]
    if not heads:
        return Finding("python", "not checked", "the head does not answer")
    head = heads[0]
    if head.python is None or head.python.rpartition("/")[0] != head.executable.rpartition("/")[0]:
        return Finding(
            "python",
            "failed",
            f"on the head, `python` is {head.python or 'missing'}, but Ray runs with {head.executable}",
            f"start Ray there with {head.executable.rpartition('/')[0]} first on the PATH",
        )
    return Finding("python", "ok", head.python)


def check_authentication(nodes: Sequence[NodeFacts]) -> Finding:
    """Every node requires a token: without one, anyone who can connect can run code on the cluster."""
    if unprotected := [node.node for node in nodes if not node.token]:
        fix = "start Ray on every node with RAY_AUTH_MODE=token and one token (ray get-auth-token --generate)"
        detail = f"off on {_list(unprotected)}: anyone who can connect can run code there"
        return Finding("authentication", "failed", detail, fix)
    return Finding("authentication", "ok", "by token")


def check_clocks(nodes: Sequence[NodeFacts]) -> Finding:
    """The nodes' clocks agree to within 2 seconds."""
    if skewed := [node for node in nodes if node.clock_skew_s > _CLOCK_SKEW_S]:
        detail = ", ".join(f"{node.node} is off by {node.clock_skew_s:.1f} s" for node in skewed)
        return Finding("clocks", "failed", detail, "run an NTP client on all nodes (chrony, systemd-timesyncd)")
    return Finding("clocks", "ok", f"within {max(node.clock_skew_s for node in nodes):.1f} s of this machine's")


def check_gpus(nodes: Sequence[NodeFacts], needed: float = 0) -> Finding:
    """Every GPU that Ray schedules is usable from torch, and the cluster has the `needed` GPUs of a planned build."""
    problems, fixes = [], []
    for node in nodes:
        scheduled = node.resources.get("GPU", 0)
        if scheduled and node.gpu_problem:
            problems.append(f"{node.node}: {node.gpu_problem}")
            fixes.append("make `python -c 'import torch; print(torch.cuda.device_count())'` work there")
        elif scheduled and (node.usable_gpus or 0) < scheduled:
            problems.append(f"{node.node}: Ray schedules {scheduled:g}, torch sees {node.usable_gpus or 0}")
            fixes.append("install a torch with CUDA and a matching driver, or start Ray with the right --num-gpus")
    total = sum(node.resources.get("GPU", 0) for node in nodes)
    if needed > total:
        problems.append(f"the plan's workers need {needed:g} at a time, Ray has {total:g}")
        fixes.append("add nodes with GPUs, or plan without them (resources: CPU=1)")
    if problems:
        return Finding("GPUs", "failed", "; ".join(problems), "; ".join(dict.fromkeys(fixes)))
    unscheduled = sum(node.gpus for node in nodes if not node.resources.get("GPU"))
    extra = f" ({unscheduled} more that Ray does not schedule)" if unscheduled else ""
    return Finding("GPUs", "ok", f"{total:g}{extra}" if total or unscheduled else "none")


def check_memory(nodes: Sequence[NodeFacts]) -> Finding:
    """Every node has free memory: Ray kills workers where more than 95 % is used."""
    fix = f"stop the processes that use it: Ray kills workers where more than {_FULL:.0%} is used"
    return _check_usage("memory", nodes, lambda node: node.memory, fix)


def check_disk(nodes: Sequence[NodeFacts]) -> Finding:
    """Every node has free disk space for Ray's session folder: Ray stops writing at 95 %."""
    fix = f"free disk space, or start Ray with another --temp-dir: it stops writing if more than {_FULL:.0%} is used"
    return _check_usage("disk", nodes, lambda node: node.disk, fix)


def check_shared(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Every node reads and writes each shared URI, and reads what the others wrote."""
    uris = list(dict.fromkeys(uri for node in nodes for uri in node.shared))
    if not uris:
        return [Finding("shared storage", "not checked", "name it with `shared=`")]
    return [_check_uri(uri, nodes) for uri in uris]


def _check_uri(uri: str, nodes: Sequence[NodeFacts]) -> Finding:
    by_problem = _group(nodes, lambda node: node.shared[uri].problem)
    problems = [f"{problem}: {_list(on)}" for problem, on in by_problem.items() if problem]
    if problems:
        fix = (
            "give every node the same credentials and network"
            if "://" in uri
            else "mount it on every node at the same path, writable for the user that Ray runs as"
        )
        return Finding(f"shared storage {uri}", "failed", "; ".join(problems), fix)
    usages = [usage for node in nodes if (usage := node.shared[uri].usage)]
    free = f", {size(min(usage.free for usage in usages))} free" if usages else ""
    return Finding(f"shared storage {uri}", "ok", f"readable and writable from {_count(nodes)}{free}")


def _check_usage(
    what: str, nodes: Sequence[NodeFacts], usage_of: Callable[[NodeFacts], Usage | None], fix: str
) -> Finding:
    usages = {node.node: usage for node in nodes if (usage := usage_of(node))}
    if not usages:
        return Finding(what, "not checked", "no node reports it")
    full = [f"{node}: {size(usage.free)} of {size(usage.total)} free"
            for node, usage in usages.items() if usage.free < (1 - _FULL) * usage.total]  # fmt: skip
    if full:
        return Finding(what, "failed", "; ".join(full), fix)
    return Finding(what, "ok", f"at least {size(min(usage.free for usage in usages.values()))} free")


def _group(nodes: Iterable[NodeFacts], value_of: Callable[[NodeFacts], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(value_of(node), []).append(node.node)
    return groups


def _list(nodes: Sequence[str]) -> str:
    more = len(nodes) - _NODES_SHOWN
    return ", ".join(nodes[:_NODES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(nodes: Sequence[NodeFacts]) -> str:
    return "the only node" if len(nodes) == 1 else f"all {len(nodes)} nodes"
