"""The processes of an endpoint: what they do, and the CPU and the memory that each kind of them takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# What a process does, by a part of its command.
_ROLES = {
    ":shard-": "shards",
    ":gateway": "gateway",
    ":query-encoder": "encoder",
    "haproxy": "HAProxy",
    "pylate": "PyLate",
}


@contextmanager
def endpoint_cpu() -> Iterator[Counter[str]]:
    """CPU seconds of the processes that are below this one before and after, by what they do."""
    spent: Counter[str] = Counter()
    before = _cpu_seconds()
    yield spent
    for process, (role, seconds) in _cpu_seconds().items():
        if process in before:
            spent[role] += seconds - before[process][1]


def endpoint_memory() -> dict[str, dict[str, int]]:
    """Bytes of the processes below this one, by what they do.

    `own` is what no other process has, `shared` their part of the pages that several have mapped: the index's.
    """
    found: dict[str, dict[str, int]] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            role, memory = _role(" ".join(process.cmdline())), process.memory_full_info()
        except psutil.Error:
            continue
        sums = found.setdefault(role, {"processes": 0, "own": 0, "shared": 0})
        sums["processes"] += 1
        sums["own"] += memory.uss
        sums["shared"] += memory.pss - memory.uss
    return found


def by_role(cpu: Counter[str], n_queries: int) -> str:
    """CPU milliseconds a query: of all processes, and of each kind."""
    shares = ", ".join(f"{role} {1000 * seconds / n_queries:.2f}" for role, seconds in cpu.most_common())
    return f"{1000 * cpu.total() / n_queries:.2f} ({shares})"


def _cpu_seconds() -> dict[psutil.Process, tuple[str, float]]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            found[process] = (_role(" ".join(process.cmdline())), times.user + times.system)
        except psutil.Error:
            continue
    return found


def _role(command: str) -> str:
    return next((role for part, role in _ROLES.items() if part in command), "rest of Ray")
