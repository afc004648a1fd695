"""Collect the facts of all nodes: one small task pinned to each, then its clock skew."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from raycol.doctor import node as on_node
from raycol.doctor.facts import NodeFacts, SharedFacts
from raycol.doctor.shared import read_markers, remove_markers, write_marker

# Readings per clock. Each gives a lower bound on the skew; the largest is the tightest.
_CLOCK_READINGS = 3
_CLOCK_TIMEOUT_S = 10.0


def gather_facts(uris: Sequence[str], wait_s: float) -> list[NodeFacts]:
    """Return the facts of every node of the connected cluster, the head's first.

    Args:
        uris: folders and URIs that all nodes should share.
        wait_s: seconds to wait for the nodes.
    """
    import ray

    token = secrets.token_hex(16)
    problems = {uri: problem for uri in uris if (problem := write_marker(uri, token))}
    try:
        nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: not _is_head(node))
        task: Any = ray.remote(on_node.gather)
        session_dir = ray._private.worker._global_node.get_session_dir_path()
        writable = [uri for uri in uris if uri not in problems]
        refs = {
            node["NodeID"]: task.options(**_pinned_to(node)).remote(
                _name(node), _is_head(node), _resources(node), writable, token, session_dir
            )
            for node in nodes
        }
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=wait_s)
        facts = [_facts_of(node, refs[node["NodeID"]], wait_s) for node in nodes]
        answered = [fact.node for fact in facts if not fact.problem]
        unreadable = {uri: read_markers(uri, token, answered) for uri in writable}
    finally:
        for uri in uris:
            remove_markers(uri, token)
    return [_with_markers(fact, problems, unreadable) for fact in facts]


def _facts_of(node: dict[str, Any], ref: Any, wait_s: float) -> NodeFacts:
    import ray

    failed = NodeFacts(node=_name(node), is_head=_is_head(node), resources=_resources(node))
    try:
        facts: NodeFacts = ray.get(ref, timeout=0)
        return facts.model_copy(update={"clock_skew_s": _clock_skew_s(node)})
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return failed.model_copy(update={"problem": f"no answer within {wait_s:g} seconds"})
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        lines = str(cause).strip().splitlines() or [""]
        return failed.model_copy(update={"problem": f"{type(cause).__name__}: {lines[0]}"})


def _clock_skew_s(node: dict[str, Any]) -> float:
    """A lower bound on a node's clock skew: the node reads its clock between our send and receive times."""
    import ray

    task: Any = ray.remote(on_node.now)
    bounds = []
    for _ in range(_CLOCK_READINGS):
        sent = time.time()
        remote: float = ray.get(task.options(**_pinned_to(node)).remote(), timeout=_CLOCK_TIMEOUT_S)
        bounds.append(max(0.0, remote - time.time(), sent - remote))
    return max(bounds)


def _with_markers(facts: NodeFacts, problems: dict[str, str], unreadable: dict[str, dict[str, str]]) -> NodeFacts:
    """The facts of a node, with the problems that the driver had writing or reading marker files."""
    if facts.problem:
        return facts
    shared = {uri: SharedFacts(problem=problem) for uri, problem in problems.items()}
    for uri, reported in facts.shared.items():
        problem = reported.problem or unreadable[uri].get(facts.node, "")
        shared[uri] = reported.model_copy(update={"problem": problem})
    return facts.model_copy(update={"shared": shared})


def _pinned_to(node: dict[str, Any]) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    }


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]


def _name(node: dict[str, Any]) -> str:
    """A node's address and the start of its id: several nodes may run on one machine."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


def _resources(node: dict[str, Any]) -> dict[str, float]:
    return {name: amount for name, amount in node["Resources"].items() if not name.startswith("node:")}
