"""Fresh processes, their cost, and plain tables."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Cost:
    """CPU seconds of all threads of this process, wall seconds, and the process's peak resident memory so far."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block."""
    cost = Cost()
    cpu, wall = time.process_time(), time.perf_counter()
    yield cost
    cost.cpu_s, cost.wall_s = time.process_time() - cpu, time.perf_counter() - wall
    cost.peak_bytes = peak_memory()


def peak_memory() -> int:
    """Peak resident memory of this process in bytes.

    From /proc, since ru_maxrss of a fresh process starts at its parent's peak.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status: no VmHWM; this benchmark needs Linux")


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    """Call a module-level function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def processor() -> str:
    """Name and vector instructions of the processor, and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name, flags = (
        next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "unknown")
        for field in ("model name", "flags")
    )
    vector = [flag for flag in ("avx2", "avx512f", "avx512_vnni") if flag in flags.split()]
    return f"{name}, {os.cpu_count()} cores, {' '.join(vector)}"


def say(message: str) -> None:
    """Print progress and the load average on stderr: CPU seconds grow if other programs compete for the cores."""
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}] {message}", file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]), flush=True)


def gib(n_bytes: int) -> str:
    """Bytes as GiB."""
    return f"{n_bytes / 2**30:.2f}"
