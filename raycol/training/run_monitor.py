"""How a driver and its workers know of each other: an actor that workers write to and a thread that reads it.

The board outlives the workers, so it is also what remembers why they failed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raycol.core.progress import Report
from raycol.training.record import OnRecord, Record

_PERIOD_S = 0.5
# Starts from one checkpoint after which training is given up.
_MOST_STARTS = 3


class Board:
    """What the leading worker posted, and how starts and failures went.

    Runs as a Ray actor where the driver is, or elsewhere once that node is gone; only what it knew is lost then.
    """

    def __init__(self) -> None:
        self._life = uuid.uuid4().hex
        self._records: list[Record] = []
        self._starts: list[int] = []
        self._failure = ""
        self._last_error = ""

    def post(self, record: Record) -> None:
        """Take note of a step or an evaluation."""
        self._records.append(record)

    def since(self, life: str, n: int) -> tuple[str, list[Record]]:
        """All records but the first `n` of the actor's life; of another life, all."""
        return self._life, self._records[n if life == self._life else 0 :]

    def start(self, step: int) -> str:
        """Take note that workers start from a step; return why they should not, as `fail` takes it."""
        self._starts.append(step)
        if not self._failure and self._starts[-_MOST_STARTS - 1 :] == [step] * (_MOST_STARTS + 1):
            why = self._last_error or "a worker died; its machine may lack memory"
            self._failure = f"RaycolError training failed {_MOST_STARTS} times from step {step}: {why}"
        return self._failure

    def fail(self, failure: str, final: bool) -> None:
        """Take note of an error: its class and its message. A final one ends training."""
        if final:
            self._failure = self._failure or failure
        self._last_error = failure.partition(" ")[2]

    def failure(self) -> str:
        """What ended training."""
        return self._failure


def make_board() -> Any:
    """A board, on the driver's node if possible."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board)
    return actor.options(scheduling_strategy=here).remote()


@contextmanager
def watch(board: Any, report: Report, on_record: OnRecord) -> Iterator[None]:
    """Pass on what is posted while the block runs, and what is left at its end."""
    import ray

    done = threading.Event()
    life, seen = "", 0

    def look() -> None:
        nonlocal life, seen
        try:
            before, (life, records) = life, ray.get(board.since.remote(life, seen), timeout=10)
        except ray.exceptions.RayError:
            return
        seen = len(records) + (seen if before == life else 0)
        for record in records:
            report(record["step"], record["steps"], remark(record))
            on_record(record)

    def follow() -> None:
        while not done.wait(_PERIOD_S):
            look()

    thread = threading.Thread(target=follow, name="raycol-training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()


def remark(record: Record) -> str:
    """A record in a few words."""
    if "loss" not in record:
        return next((f"{name} {record[name]:.4f}" for name in record if "@" in name), "")
    return f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s"
