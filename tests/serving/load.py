"""Load generation: client threads that search an endpoint during a test."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil

QUERIES = [
    "violin and piano",
    "rain",
    "bread butter oven",
    "ship in the fog",
    "choir",
    "storm and snow",
    "a cake",
    "sea",
]


@dataclass
class Answered:
    """One response or failure: request time, latency, status and body."""

    asked: float
    seconds: float
    status: int
    body: dict[str, Any]
    failure: str = ""


@dataclass
class Load:
    """The responses so far."""

    answers: list[Answered] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        """The number of responses by status; 0 counts failures."""
        return Counter(answer.status for answer in self.answers)

    def since(self, moment: float) -> list[Answered]:
        """The responses to requests sent since a time."""
        return [answer for answer in self.answers if answer.asked >= moment]

    def wait(self, condition: Callable[[list[Answered]], bool], timeout: float = 30.0) -> float:
        """Wait until the responses since now meet a condition; returns the time."""
        started = time.monotonic()
        while not condition(self.since(started)):
            assert time.monotonic() < started + timeout, self.statuses
            time.sleep(0.05)
        return time.monotonic()


@contextmanager
def clients(url: str, body: Callable[[int], dict[str, Any]], n: int, *, pause: float = 0.0) -> Iterator[Load]:
    """Run `n` clients that each send one search after another while the block runs."""
    load, stop = Load(), threading.Event()

    def work(first: int) -> None:
        number = first
        with httpx2.Client(base_url=url, timeout=60.0, trust_env=False) as client:
            while not stop.is_set():
                asked = time.monotonic()
                try:
                    got = client.post("/v1/search", json=body(number))
                    answer = Answered(asked, time.monotonic() - asked, got.status_code, got.json())
                except (httpx2.HTTPError, ValueError) as error:
                    answer = Answered(asked, time.monotonic() - asked, 0, {}, repr(error))
                load.answers.append(answer)
                number += n
                stop.wait(pause)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(70)


def replicas(deployment: str) -> list[psutil.Process]:
    """The replica processes of a deployment in this Ray session."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"ServeReplica:raycol:{deployment}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def one_query(number: int) -> dict:
    return {"query": QUERIES[number % len(QUERIES)], "k": 10, "timeout_ms": 3000}


def check_answers(load: Load, expected: dict[int, list[list[str]]]) -> None:
    """Check that every complete response has the hits of the version that it names."""
    by_query = {version: {tuple(ids) for ids in found} for version, found in expected.items()}
    for answer in load.answers:
        if answer.status == 200 and not answer.body["partial"]:
            (hits,) = answer.body["results"]
            assert tuple(hit["id"] for hit in hits) in by_query[answer.body["version"]]


def heavy(number: int | str) -> dict:
    """64 new queries, so that all are encoded, with all documents as hits."""
    return {"queries": [f"{QUERIES[n % 8]} {number} {n}" for n in range(64)], "k": 100, "timeout_ms": 2000}
