"""Load generator for an HTTP endpoint, in a separate process.

    python benchmarks/load.py JOB    (JSON: see `Job`; a `Report` is printed as JSON)

With `clients`, each connection sends its next request once the last one is answered (a closed loop). With `rate`,
requests are due at random moments at that mean rate per second (Poisson), independent of earlier answers (an open
loop). Latency counts from the moment a request was due, so that it includes waiting for a slow server or client.

Requests are prepared in advance and sent as HTTP/1.1 over asyncio's transports, on persistent connections: the load
shares a machine with the endpoint, and this costs a fraction of a client library. The report includes that cost. The
bodies are the lines of a file, in rotation; PLACE in a body is replaced by a new number each time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

PLACE = "%%NUMBER%%"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# A slower answer counts as none.
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Job:
    """Requests to send to a port of this machine: for `seconds`, after an uncounted warm-up of `warm_s`."""

    port: int
    path: str
    bodies: str
    seconds: float
    warm_s: float
    clients: int = 0
    rate: float = 0.0
    first_number: int = 0


@dataclass
class Report:
    """Results of a job.

    `latencies_ms` are of answers with status 200; `statuses` (0 for no answer) and `slowest_ms` are of all answers, by
    status. All exclude the warm-up. `sent` and `cpu_s` include it. `late_ms`: delay of requests in this process.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    slowest_ms: dict[str, float] = field(default_factory=dict)
    late_ms: list[float] = field(default_factory=list)
    sent: int = 0
    cpu_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers with status 200, per second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def errors(self) -> str:
        """Number of answers of each other status, as text."""
        return ", ".join(f"{n} x {status}" for status, n in self.statuses.items() if status != "200") or "none"


def load(job: Job) -> Report:
    """Run a job in a separate process."""
    command = [sys.executable, __file__, json.dumps(asdict(job))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Report(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._expected = 0
        self._status = 0
        self._answer: asyncio.Future[int] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end])
            length = _LENGTH.search(head)
            if length is None:
                self.close()
                return
            self._status = int(head[9:12])
            self._expected = end + 4 + int(length[1])
        if len(self._received) >= self._expected:
            self._received.clear()
            self._expected = 0
            if self._answer and not self._answer.done():
                self._answer.set_result(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_result(0)

    async def ask(self, request: list[bytes]) -> int:
        """Wait for the complete answer; return its status, or 0 for none."""
        if self._transport is None:
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._answer
        except TimeoutError:
            self.close()
            return 0

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


class _Load:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._requests = _requests(job)
        self._idle: list[_Connection] = []
        self._statuses: Counter[str] = Counter()
        self._slowest: dict[str, float] = {}
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._sent = 0
        self._counted_from = 0.0
        self._until = 0.0

    async def run(self) -> Report:
        cpu = time.process_time()
        started = time.perf_counter()
        self._counted_from = started + self._job.warm_s
        self._until = self._counted_from + self._job.seconds
        await (self._closed() if self._job.clients else self._open(started))
        return Report(
            seconds=self._job.seconds,
            latencies_ms=[round(1000 * latency, 3) for latency in self._latencies],
            statuses=dict(self._statuses),
            slowest_ms={status: round(1000 * slowest, 3) for status, slowest in self._slowest.items()},
            late_ms=[round(1000 * late, 3) for late in self._late],
            sent=self._sent,
            cpu_s=time.process_time() - cpu,
        )

    async def _closed(self) -> None:
        async def client() -> None:
            while (now := time.perf_counter()) < self._until:
                await self._ask(now)

        await asyncio.gather(*(client() for _ in range(self._job.clients)))

    async def _open(self, started: float) -> None:
        rng = random.Random(0)
        asked = set()
        due = started
        while (due := due + rng.expovariate(self._job.rate)) < self._until:
            await asyncio.sleep(due - time.perf_counter())
            task = asyncio.create_task(self._ask(due))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)

    async def _ask(self, due: float) -> None:
        """Send one request. A closed loop counts it by the time of its answer, an open loop by the time it was due."""
        connection = self._idle.pop() if self._idle else await self._connect()
        late = time.perf_counter() - due
        self._sent += 1
        status = await connection.ask(next(self._requests))
        now = time.perf_counter()
        if connection.is_open:
            self._idle.append(connection)
        else:
            await asyncio.sleep(0.01)  # no busy loop if nothing listens
        if self._counted_from <= (now if self._job.clients else due) < self._until:
            self._statuses[str(status)] += 1
            self._slowest[str(status)] = max(self._slowest.get(str(status), 0.0), now - due)
            self._late.append(late)
            if status == 200:
                self._latencies.append(now - due)

    async def _connect(self) -> _Connection:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, "127.0.0.1", self._job.port
            )
        except OSError:
            return _Connection()
        return connection


def _requests(job: Job) -> Iterator[list[bytes]]:
    """Yield the head and body of each request, in rotation."""
    place, width = PLACE.encode(), len(PLACE)
    made = []
    for body in Path(job.bodies).read_bytes().splitlines():
        head = f"POST {job.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        made.append((f"{head}content-length: {len(body)}\r\n\r\n".encode(), body, place in body))
    numbers = itertools.count(job.first_number)
    for head, body, has_place in itertools.cycle(made):
        yield [head, body.replace(place, f"{next(numbers):0{width}}".encode()) if has_place else body]


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_Load(Job(**json.loads(sys.argv[1]))).run()))))
