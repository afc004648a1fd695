"""Progress within the inputs that workers on Ray are processing.

Ray Data passes on a task's result only when the task has ended. Meanwhile a worker writes how far it is to the
key-value store of Ray's head, where the driver reads it: that takes no further process.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

# Seconds between two reports.
INTERVAL_S = 1.0
_NAMESPACE = "raycol-progress"

W = TypeVar("W", bound=type)


def throttled(on_progress: Callable[[int], None]) -> Callable[[int], None]:
    """Return a callback that passes on at most one call per `INTERVAL_S`."""
    due = time.monotonic() + INTERVAL_S

    def report(done: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + INTERVAL_S
            on_progress(done)

    return report


class RunningProgress:
    """The amounts done of unfinished inputs; a context in which a thread reports their sum.

    Args:
        on_progress: called about once a second, from the thread.
    """

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._key = uuid.uuid4().hex
        self._finished: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, name="progress", daemon=True)

    def reporting(self, worker: W) -> W:
        """Return a subclass of a worker class that writes its progress; Ray shows it by the same name."""
        key = self._key

        class Reporting(worker):  # type: ignore[misc, valid-type]
            def process(self, number: int, input_: Any) -> Any:
                self.on_progress = throttled(partial(_put, f"{key}/{number}"))
                return super().process(number, input_)

        Reporting.__name__ = Reporting.__qualname__ = worker.__name__
        return Reporting  # type: ignore[return-value]

    def finish(self, number: int) -> None:
        """Leave an input out from now on: its result has arrived."""
        self._finished.add(number)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(Exception):  # the session may have ended
            _delete(self._key)

    def _report(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            with suppress(Exception):  # a head that does not answer for a moment shows no progress
                if done := self._unfinished():
                    self._on_progress(done)

    def _unfinished(self) -> int:
        """Sum of the amounts done of inputs whose results have not arrived."""
        return sum(_get(name) for name in _names(self._key) if int(name.rpartition("/")[2]) not in self._finished)


def _put(name: str, done: int) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    with suppress(Exception):  # what cannot be reported must not fail the work
        _internal_kv_put(name, str(done), overwrite=True, namespace=_NAMESPACE)


def _get(name: str) -> int:
    from ray.experimental.internal_kv import _internal_kv_get

    return int(_internal_kv_get(name, namespace=_NAMESPACE) or 0)


def _names(prefix: str) -> list[str]:
    from ray.experimental.internal_kv import _internal_kv_list

    return [name.decode() for name in _internal_kv_list(prefix, namespace=_NAMESPACE)]


def _delete(prefix: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(prefix, del_by_prefix=True, namespace=_NAMESPACE)
