"""Clients of an endpoint on a host: `python -m tests.cluster.asking URL FILE LOAD` until it is told to end (SIGTERM).

A line of the file is one answer, as soon as it is there.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from tests.cluster.hosts import PATIENCE_S, Hosts
from tests.serving.load import Answered, Load, clients, heavy, one_query

CLIENTS = 4
PAUSE_S = 0.05
LOADS = {"light": one_query, "heavy": lambda number: heavy(number) | {"timeout_ms": 20_000}}


class Asked(Load):
    """What clients on a host have been answered so far."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._lines = file.open()
        self._rest = ""

    def since(self, moment: float) -> list[Answered]:
        """Those asked for after a moment."""
        *lines, self._rest = (self._rest + self._lines.read()).split("\n")
        self.answers.extend(Answered(**json.loads(line)) for line in lines)
        return super().since(moment)

    def wait(self, condition: Callable[[list[Answered]], bool], timeout: float = PATIENCE_S) -> float:
        """Until the answers since now are as a condition says; returns when that was."""
        return super().wait(condition, timeout)


@contextmanager
def asking(hosts: Hosts, number: int, url: str, folder: Path, load: str = "light") -> Iterator[Asked]:
    """Clients on a host while the block runs."""
    file = folder / "answers.jsonl"
    file.write_text("")
    log = folder / "asking.log"
    process = hosts.popen(number, sys.executable, "-m", "tests.cluster.asking", url, file, load, cwd=folder,
                          log=log)  # fmt: skip
    asked = Asked(file)
    try:
        yield asked
    finally:
        process.terminate()
        code = process.wait(PATIENCE_S)
        asked.since(0.0)
    assert code == 0, log.read_text()


def main(url: str, file: str, kind: str) -> None:
    """Ask, and write down what is answered."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    written = 0

    def write(load: Load, lines) -> int:
        answers = load.answers[written:]
        lines.writelines(json.dumps(dataclasses.asdict(answer)) + "\n" for answer in answers)
        lines.flush()
        return written + len(answers)

    with Path(file).open("a") as lines:
        with clients(url, LOADS[kind], CLIENTS, pause=PAUSE_S) as load:
            while not stop.is_set():
                time.sleep(0.1)
                written = write(load, lines)
        write(load, lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
