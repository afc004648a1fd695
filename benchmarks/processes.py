"""CPU and memory of an endpoint's processes, by role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# The role of a process, by a substring of its command.
_ROLES = {
    ":shard-": "shards",
    ":gateway": "gateway",
    ":query-encoder": "encoder",
    "haproxy": "HAProxy",
    "pylate": "PyLate",
}


@contextmanager
def endpoint_cpu() -> Iterator[Counter[str]]:
    """CPU seconds, by role, of the descendants that exist before and after the block."""
    spent: Counter[str] = Counter()
    before = _cpu_seconds()
    yield spent
    for process, (role, seconds) in _cpu_seconds().items():
        if process in before:
            spent[role] += seconds - before[process][1]


def endpoint_memory() -> dict[str, dict[str, int]]:
    """Resident bytes of this process's descendants, by role, and their number.

    `own` is anonymous memory; `files` are mapped, the index's included, and count for every process that maps them.
    """
    found: dict[str, dict[str, int]] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            role, status = _role(" ".join(process.cmdline())), Path(f"/proc/{process.pid}/status").read_text()
        except (psutil.Error, OSError):
            continue
        kb = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in status.splitlines())
              if name in ("RssAnon", "RssFile")}  # fmt: skip
        sums = found.setdefault(role, {"processes": 0, "own": 0, "files": 0})
        sums["processes"] += 1
        sums["own"] += 1024 * kb.get("RssAnon", 0)
        sums["files"] += 1024 * kb.get("RssFile", 0)
    return found


def by_role(cpu: Counter[str], n_queries: int) -> str:
    """CPU milliseconds a query: of all processes, and by role."""
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
