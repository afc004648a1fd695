"""More load than an endpoint can serve: refused at once, within bounds, and forgotten."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest

from raycol.index import Index
from raycol.serving.config import ServeConfig
from raycol.serving.run import Endpoint, serving
from tests.serving.load import clients, heavy, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]

TIMES = 20
SECONDS = float(os.environ.get("RAYCOL_OVERLOAD_SECONDS", "12"))
TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def endpoint(index: Index) -> Iterator[Endpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, port=0, timeout_s=TIMEOUT_S, max_requests=8)) as running:
        yield running


def memory() -> int:
    names = ("gateway", "query-encoder", "shard-0000", "shard-0001")
    return sum(process.memory_info().rss for name in names for process in replicas(name))


async def flood(url: str, rate: float, seconds: float) -> list[tuple[int, float]]:
    """Requests sent at a rate whatever is answered; the status and the seconds of each."""
    limits = httpx2.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx2.AsyncClient(base_url=url, timeout=30.0, trust_env=False, limits=limits) as client:

        async def ask(number: int) -> tuple[int, float]:
            asked = time.monotonic()
            try:
                status = (await client.post("/v1/search", json=heavy(number))).status_code
            except httpx2.HTTPError:
                status = 0
            return status, time.monotonic() - asked

        started, tasks = time.monotonic(), []
        while (elapsed := time.monotonic() - started) < seconds:
            due = int(rate * elapsed)
            tasks += [asyncio.create_task(ask(number)) for number in range(len(tasks), due)]
            await asyncio.sleep(0.01)
        return list(await asyncio.gather(*tasks))


def test_twenty_times_the_load_is_refused_at_once(endpoint: Endpoint) -> None:
    with clients(endpoint.url, heavy, 2) as load:
        load.wait(lambda answers: len(answers) > 20)
    usual = sorted(answer.seconds for answer in load.answers)[len(load.answers) // 2]
    before = memory()
    answers = asyncio.run(flood(endpoint.url, TIMES * 2 / usual, SECONDS))
    after = memory()
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 429, 503}, statuses
    assert statuses[200]
    assert statuses[429] > len(answers) / 2, statuses
    # The deadline, and what a machine with two cores takes to get round to sending an answer.
    assert all(seconds < TIMEOUT_S + 3 for _, seconds in answers), max(seconds for _, seconds in answers)
    assert after < before + (300 << 20)
    # Back to normal within five seconds.
    with clients(endpoint.url, one_query, 2, pause=0.01) as load:
        load.wait(lambda answers: [a.status == 200 and a.seconds < 1 for a in answers[-20:]] == [True] * 20, timeout=5)
