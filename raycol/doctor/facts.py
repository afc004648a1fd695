"""What is known of each node, and of the build that is planned: what the checks are made over."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Room(_Facts):
    """Bytes of a disk or of memory: how many there are, and how many are free."""

    total: int
    free: int


class SharedFacts(_Facts):
    """What a node found at a place that all should share: what went wrong, if anything, and the room of its disk."""

    problem: str = ""
    room: Room | None = None


class NodeFacts(_Facts):
    """What a node says of itself.

    Args:
        node: its address.
        is_head: whether it is the head, where jobs start.
        problem: why it said nothing; then the rest is empty.
        versions: of Python and packages; a package that is not there is left out.
        token: whether it takes part with a token only.
        python: what `python` is on its PATH.
        executable: the interpreter that Ray runs there.
        resources: what Ray has to give there.
        gpus: devices that the machine has.
        usable_gpus: devices that torch sees; None where there was no reason to ask.
        gpu_problem: why torch could not be asked.
        memory: of the machine, or of its container.
        disk: of Ray's own folder.
        clock_off: seconds by which its clock is off that of the process that asks, at least.
        shared: by place.
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
    memory: Room | None = None
    disk: Room | None = None
    clock_off: float = 0.0
    shared: dict[str, SharedFacts] = {}


class PlanFacts(_Facts):
    """What a build will take.

    Args:
        out: where its index goes.
        index_bytes, worker_bytes, driver_bytes: as `raycol index plan` says.
        num_workers: how many workers there will be; None for as many as there is room for.
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
