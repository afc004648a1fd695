"""How a driver sees the steps of its workers: an actor they write to and a thread that reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raycol.progress import Report

_PERIOD_S = 0.5


class Board:
    """The latest step, as the leading worker posted it. Runs as a Ray actor."""

    def __init__(self) -> None:
        self._step, self._steps = 0, 0
        self._loss: float | None = None

    def post(self, step: int, steps: int, loss: float | None) -> None:
        """Take note of a step."""
        self._step, self._steps, self._loss = step, steps, loss

    def latest(self) -> tuple[int, int, float | None]:
        """The last step, the number of steps, and the loss."""
        return self._step, self._steps, self._loss


@contextmanager
def watch(board: Any, report: Report) -> Iterator[None]:
    """Pass a board's latest step on to `report` while the block runs."""
    import ray

    done = threading.Event()

    def follow() -> None:
        while not done.wait(_PERIOD_S):
            try:
                step, steps, loss = ray.get(board.latest.remote(), timeout=10)
            except ray.exceptions.RayError:
                continue
            if steps:
                report(step, steps, "" if loss is None else f"loss {loss:.3f}")

    thread = threading.Thread(target=follow, name="raycol-training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
