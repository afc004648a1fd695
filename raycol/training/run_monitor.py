"""The run monitor: an actor that the rank-0 worker reports to, and a driver thread that polls it.

The actor outlives the workers, so it also counts restarts and keeps the cause of the last failure.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raycol.core.progress import Report
from raycol.errors import RaycolError
from raycol.training.metrics import OnRecord, Record, evaluation_of

_POLL_INTERVAL_S = 0.5
# Starts from the same checkpoint after which training gives up.
_MAX_STARTS = 3


class RunMonitor:
    """Records of the rank-0 worker, and the history of starts and failures.

    Runs as a Ray actor on the driver's node. If that node is lost, Ray restarts the actor elsewhere with empty state.
    """

    def __init__(self) -> None:
        self._instance = uuid.uuid4().hex
        self._records: list[Record] = []
        self._start_steps: list[int] = []
        self._failure: RaycolError | None = None
        self._last_crash = ""

    def add_record(self, record: Record) -> None:
        """Append the record of a step or an evaluation."""
        self._records.append(record)

    def records_since(self, instance: str, n: int) -> tuple[str, list[Record]]:
        """This instance's id, and its records after the first `n`; all of them if `instance` is another id."""
        return self._instance, self._records[n if instance == self._instance else 0 :]

    def register_start(self, step: int) -> RaycolError | None:
        """Register that workers start from a step; return the error that forbids it."""
        self._start_steps.append(step)
        if not self._failure and self._start_steps[-_MAX_STARTS - 1 :] == [step] * (_MAX_STARTS + 1):
            cause = self._last_crash or "a worker died, perhaps out of memory"
            self._failure = RaycolError(f"training failed {_MAX_STARTS} times from step {step}: {cause}")
        return self._failure

    def end_with(self, error: RaycolError) -> None:
        """Register the error that ends training, unless there is one."""
        self._failure = self._failure or error

    def report_crash(self, description: str) -> None:
        """Register an unexpected error of a worker; training starts again."""
        self._last_crash = description


def start_run_monitor() -> Any:
    """Start a `RunMonitor` actor, on the driver's node if possible."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RunMonitor)
    return actor.options(scheduling_strategy=on_this_node).remote()


@contextmanager
def watch(monitor: Any, report: Report, on_record: OnRecord) -> Iterator[None]:
    """Forward a monitor's records to `report` and `on_record` until the block ends, the last ones included."""
    import ray

    done = threading.Event()
    instance, n_seen = "", 0

    def poll() -> None:
        nonlocal instance, n_seen
        try:
            current, records = ray.get(monitor.records_since.remote(instance, n_seen), timeout=10)
        except ray.exceptions.RayError:
            return
        n_seen = len(records) + (n_seen if current == instance else 0)
        instance = current
        for record in records:
            report(record["step"], record["steps"], summarize(record))
            on_record(record)

    def poll_until_done() -> None:
        while not done.wait(_POLL_INTERVAL_S):
            poll()

    thread = threading.Thread(target=poll_until_done, name="raycol-training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        poll()


def summarize(record: Record) -> str:
    """A record in a few words."""
    if "loss" not in record:
        return next((f"{name} {value:.4f}" for name, value in evaluation_of(record).items()), "")
    return f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s"
