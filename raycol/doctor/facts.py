"""Facts about each node and about a planned build: the input of the checks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Usage(_Facts):
    """Total and free bytes of a disk or of memory."""

    total: int
    free: int


class SharedFacts(_Facts):
    """A node's view of a shared URI: the problem, if any, and the usage of its disk."""

    problem: str = ""
    usage: Usage | None = None


class NodeFacts(_Facts):
    """Facts that a node reports about itself.

    Args:
        node: its address.
        is_head: whether it is the head, where jobs start.
        problem: why the node did not answer; the other facts are then empty.
        versions: of Python and of installed packages.
        token: whether its Ray processes require a token.
        python: path of `python` on its PATH.
        executable: the interpreter that Ray runs with.
        resources: Ray's logical resources.
        gpus: devices of the machine.
        usable_gpus: devices that torch sees; None if the node has no reason to start torch.
        gpu_problem: why torch could not be started.
        memory: of the machine, or of its container.
        disk: of Ray's session folder.
        clock_skew_s: lower bound on the skew between its clock and the driver's.
        shared: by URI.
    """

    node: str
    is_head: bool = False
    problem: str = ""
    versions: dict[str, str] = {}
    token: bool = False
    python: str | None = None
    executable: str = ""
    resources: dict[str, float] = {}
    gpus: int = 0
    usable_gpus: int | None = None
    gpu_problem: str = ""
    memory: Usage | None = None
    disk: Usage | None = None
    clock_skew_s: float = 0.0
    shared: dict[str, SharedFacts] = {}


class PlanFacts(_Facts):
    """Requirements of a planned build.

    Args:
        out: URI of its index.
        index_bytes, worker_bytes, driver_bytes: as `raycol index plan` estimates them.
        num_workers: None for as many as the cluster fits.
        resources: of each worker.
        waits: whether the build waits for nodes that an autoscaler adds.
    """

    out: str
    index_bytes: int
    worker_bytes: int
    driver_bytes: int
    num_workers: int | None
    resources: dict[str, float]
    waits: bool = False
