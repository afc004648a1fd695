"""The checks: plain functions over facts. Each says what it found, and where that is wrong, how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from raycol.core.memory import size
from raycol.doctor.facts import NodeFacts, Room

State = Literal["ok", "wrong", "not checked"]

# Ray refuses to put objects on a disk that is fuller, and kills workers where memory is; by its defaults.
_FULL = 0.95
# Deadlines, reports and the times of records are compared across nodes.
_CLOCK_OFF_S = 2.0
_NODES_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    state: State
    found: str
    mend: str = ""


def check_nodes(nodes: Sequence[NodeFacts]) -> Finding:
    """All nodes answer."""
    silent = [node for node in nodes if node.problem]
    if silent:
        found = "; ".join(f"{node.node}: {node.problem}" for node in silent)
        mend = "install raycol and the same versions (constraints.txt) there, or see Ray's logs of that node"
        return Finding("nodes", "wrong", found, mend)
    return Finding("nodes", "ok", f"{len(nodes)} answer")


def check_versions(nodes: Sequence[NodeFacts]) -> Finding:
    """Python and the packages that matter are there, and the same everywhere.

    What comes after a + (torch 2.8.0+cu128) may differ: it says what a machine computes on.
    """
    names = list(dict.fromkeys(name for node in nodes for name in node.versions))
    wrong = []
    for name in names:
        by_version = _grouped(nodes, lambda node, name=name: node.versions.get(name, "").partition("+")[0] or "none")  # type: ignore[misc]
        if len(by_version) > 1:
            wrong.append(f"{name}: " + ", ".join(f"{value} on {_listed(on)}" for value, on in by_version.items()))
    if wrong:
        mend = "install the same on all nodes: pip install -c constraints.txt, with one version of Python"
        return Finding("versions", "wrong", "; ".join(wrong), mend)
    return Finding("versions", "ok", ", ".join(f"{name} {value}" for name, value in nodes[0].versions.items()))


def check_python(nodes: Sequence[NodeFacts]) -> Finding:
    """Jobs are started as `python jobs/...`, on the head: it must be the interpreter that Ray runs with."""
    heads = [node for node in nodes if node.is_head]
    if not heads:
        return Finding("python", "not checked", "no head answers")
    head = heads[0]
    if head.python is None or head.python.rpartition("/")[0] != head.executable.rpartition("/")[0]:
        return Finding(
            "python",
            "wrong",
            f"on the head, `python` is {head.python or 'not there'}, and Ray runs with {head.executable}",
            f"start Ray there with {head.executable.rpartition('/')[0]} first on the PATH",
        )
    return Finding("python", "ok", head.python)


def check_authentication(nodes: Sequence[NodeFacts]) -> Finding:
    """Nobody without a token can run code on the cluster."""
    if open_ := [node.node for node in nodes if not node.token]:
        mend = "start Ray on every node with RAY_AUTH_MODE=token and one token (ray get-auth-token --generate)"
        return Finding("authentication", "wrong", f"off on {_listed(open_)}: whoever reaches it runs code on it", mend)
    return Finding("authentication", "ok", "by token")


def check_clocks(nodes: Sequence[NodeFacts]) -> Finding:
    """Clocks agree."""
    if off := [node for node in nodes if node.clock_off > _CLOCK_OFF_S]:
        found = ", ".join(f"{node.node} is off by {node.clock_off:.1f} s" for node in off)
        return Finding("clocks", "wrong", found, "run an NTP client on all nodes (chrony, systemd-timesyncd)")
    return Finding("clocks", "ok", f"within {max(node.clock_off for node in nodes):.1f} s of this one, or closer")


def check_gpus(nodes: Sequence[NodeFacts], needed: float = 0) -> Finding:
    """GPUs that Ray gives out can be used; where a build needs some, there are some."""
    wrong, mend = [], []
    for node in nodes:
        given = node.resources.get("GPU", 0)
        if given and node.gpu_problem:
            wrong.append(f"{node.node}: {node.gpu_problem}")
            mend.append("see that `python -c 'import torch; print(torch.cuda.device_count())'` works there")
        elif given and (node.usable_gpus or 0) < given:
            wrong.append(f"{node.node}: Ray gives out {given:g}, torch sees {node.usable_gpus or 0}")
            mend.append("install a torch with CUDA and a driver that suits it, or start Ray with the right --num-gpus")
    total = sum(node.resources.get("GPU", 0) for node in nodes)
    if needed > total:
        wrong.append(f"the plan's workers need {needed:g} at a time, Ray has {total:g}")
        mend.append("add nodes with GPUs, or plan without (resources: CPU=1)")
    if wrong:
        return Finding("GPUs", "wrong", "; ".join(wrong), "; ".join(dict.fromkeys(mend)))
    idle = sum(node.gpus for node in nodes if not node.resources.get("GPU"))
    beside = f" ({idle} more that Ray does not give out)" if idle else ""
    return Finding("GPUs", "ok", f"{total:g}{beside}" if total or idle else "none")


def check_memory(nodes: Sequence[NodeFacts]) -> Finding:
    """No node is about to have its workers killed."""
    mend = f"end what takes it: Ray kills workers where more than {_FULL:.0%} is taken"
    return _check_room("memory", nodes, lambda node: node.memory, mend)


def check_disk(nodes: Sequence[NodeFacts]) -> Finding:
    """No node's disk is too full for Ray's own files."""
    mend = f"make room, or start Ray with --temp-dir elsewhere: it stops working where more than {_FULL:.0%} is taken"
    return _check_room("disk", nodes, lambda node: node.disk, mend)


def check_shared(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Each place is read and written from every node, and what one writes the others read."""
    places = list(dict.fromkeys(place for node in nodes for place in node.shared))
    if not places:
        return [Finding("shared storage", "not checked", "name it with --shared")]
    return [_check_place(place, nodes) for place in places]


def _check_place(place: str, nodes: Sequence[NodeFacts]) -> Finding:
    by_problem = _grouped(nodes, lambda node: node.shared[place].problem)
    problems = [f"{problem}: {_listed(on)}" for problem, on in by_problem.items() if problem]
    if problems:
        mend = (
            "give every node the same credentials and network"
            if "://" in place
            else "mount it on every node at the same path, writable for the user that Ray runs as"
        )
        return Finding(f"shared storage {place}", "wrong", "; ".join(problems), mend)
    rooms = [room for node in nodes if (room := node.shared[place].room)]
    free = f", {size(min(room.free for room in rooms))} free" if rooms else ""
    return Finding(f"shared storage {place}", "ok", f"read and written from {_count(nodes)}{free}")


def _check_room(
    what: str, nodes: Sequence[NodeFacts], room_of: Callable[[NodeFacts], Room | None], mend: str
) -> Finding:
    rooms = {node.node: room for node in nodes if (room := room_of(node))}
    if not rooms:
        return Finding(what, "not checked", "no node says")
    full = [f"{node}: {size(room.free)} of {size(room.total)} free"
            for node, room in rooms.items() if room.free < (1 - _FULL) * room.total]  # fmt: skip
    if full:
        return Finding(what, "wrong", "; ".join(full), mend)
    return Finding(what, "ok", f"{size(min(room.free for room in rooms.values()))} free, or more")


def _grouped(nodes: Iterable[NodeFacts], value_of: Callable[[NodeFacts], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in nodes:
        found.setdefault(value_of(node), []).append(node.node)
    return found


def _listed(nodes: Sequence[str]) -> str:
    more = len(nodes) - _NODES_SHOWN
    return ", ".join(nodes[:_NODES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(nodes: Sequence[NodeFacts]) -> str:
    return "the only node" if len(nodes) == 1 else f"all {len(nodes)} nodes"
