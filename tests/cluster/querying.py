"""Clients of an endpoint on a host: `python -m tests.cluster.querying URL FILE LOAD`, until SIGTERM.

Each answer is appended to the file as one line.
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

from tests.cluster.hosts import TIMEOUT_S, Hosts
from tests.serving.load import Answered, Load, clients, heavy, one_query

CLIENTS = 4
PAUSE_S = 0.05
LOADS = {"light": one_query, "heavy": lambda number: heavy(number) | {"timeout_ms": 20_000}}


class RecordedLoad(Load):
    """The answers that clients on a host have recorded so far."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._lines = file.open()
        self._rest = ""

    def since(self, moment: float) -> list[Answered]:
        """Answers to requests sent after a moment."""
        *lines, self._rest = (self._rest + self._lines.read()).split("\n")
        self.answers.extend(Answered(**json.loads(line)) for line in lines)
        return super().since(moment)

    def wait(self, condition: Callable[[list[Answered]], bool], timeout: float = TIMEOUT_S) -> float:
        """Wait until the answers since now meet a condition; return the moment."""
        return super().wait(condition, timeout)


@contextmanager
def querying(hosts: Hosts, number: int, url: str, folder: Path, load: str = "light") -> Iterator[RecordedLoad]:
    """Run clients on a host during the block."""
    file = folder / "answers.jsonl"
    file.write_text("")
    log = folder / "querying.log"
    process = hosts.popen(number, sys.executable, "-m", "tests.cluster.querying", url, file, load, cwd=folder,
                          log=log)  # fmt: skip
    asked = RecordedLoad(file)
    try:
        yield asked
    finally:
        process.terminate()
        code = process.wait(TIMEOUT_S)
        asked.since(0.0)
    assert code == 0, log.read_text()


def main(url: str, file: str, kind: str) -> None:
    """Send requests and record the answers."""
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
