"""Facts of all nodes: one small task pinned to each, and then its clock."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from raycol.doctor import node as on_node
from raycol.doctor.facts import NodeFacts, SharedFacts
from raycol.doctor.shared import put_note, read_notes, remove_notes

# A clock is asked so often; the quickest answer says most.
_CLOCK_TRIES = 3
_CLOCK_S = 10.0


def gather_facts(places: Sequence[str], wait_s: float) -> list[NodeFacts]:
    """The facts of every node of the cluster that Ray is connected to, the head's first.

    Args:
        places: folders and URIs that should be shared.
        wait_s: how long nodes have to answer.
    """
    import ray

    token = secrets.token_hex(16)
    problems = {place: problem for place in places if (problem := put_note(place, token))}
    try:
        nodes = sorted((found for found in ray.nodes() if found["Alive"]), key=lambda found: not _is_head(found))
        ask: Any = ray.remote(on_node.gather)
        folder = ray._private.worker._global_node.get_session_dir_path()
        tried = [place for place in places if place not in problems]
        asked = {
            found["NodeID"]: ask.options(**_on(found)).remote(
                _name(found), _is_head(found), _resources(found), tried, token, folder
            )
            for found in nodes
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=wait_s)
        facts = [_answer(found, asked[found["NodeID"]], wait_s) for found in nodes]
        answered = [fact.node for fact in facts if not fact.problem]
        unread = {place: read_notes(place, token, answered) for place in tried}
    finally:
        for place in places:
            remove_notes(place, token)
    return [_with_notes(fact, problems, unread) for fact in facts]


def _answer(found: dict[str, Any], asked: Any, wait_s: float) -> NodeFacts:
    import ray

    facts = NodeFacts(node=_name(found), is_head=_is_head(found), resources=_resources(found))
    try:
        told: NodeFacts = ray.get(asked, timeout=0)
        return told.model_copy(update={"clock_off": _clock_off(found)})
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        return facts.model_copy(update={"problem": f"no answer within {wait_s:g} seconds"})
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        lines = str(cause).strip().splitlines() or [""]
        return facts.model_copy(update={"problem": f"{type(cause).__name__}: {lines[0]}"})


def _clock_off(found: dict[str, Any]) -> float:
    """Seconds by which a node's clock is off, at least: it was read between the question and the answer."""
    import ray

    ask: Any = ray.remote(on_node.now)
    off = []
    for _ in range(_CLOCK_TRIES):
        before = time.time()
        there: float = ray.get(ask.options(**_on(found)).remote(), timeout=_CLOCK_S)
        off.append(max(0.0, there - time.time(), before - there))
    return max(off)


def _with_notes(facts: NodeFacts, problems: dict[str, str], unread: dict[str, dict[str, str]]) -> NodeFacts:
    """The facts of a node, with what others found of its notes."""
    if facts.problem:
        return facts
    shared = {place: SharedFacts(problem=problem) for place, problem in problems.items()}
    for place, found in facts.shared.items():
        problem = found.problem or unread[place].get(facts.node, "")
        shared[place] = found.model_copy(update={"problem": problem})
    return facts.model_copy(update={"shared": shared})


def _on(found: dict[str, Any]) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(found["NodeID"], soft=False),
    }


def _is_head(found: dict[str, Any]) -> bool:
    return "node:__internal_head__" in found["Resources"]


def _name(found: dict[str, Any]) -> str:
    """An address, and where several nodes may be on one machine, enough to tell them apart."""
    return f"{found['NodeManagerAddress']}/{found['NodeID'][:6]}"


def _resources(found: dict[str, Any]) -> dict[str, float]:
    return {name: amount for name, amount in found["Resources"].items() if not name.startswith("node:")}
