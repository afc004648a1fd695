"""Memory of this process, and sizes in readable units."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Return the peak resident memory of this process so far, in bytes.

    Read from /proc if it exists: getrusage may include the peak of the parent process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def release_memory() -> None:
    """Return freed heap memory to the system.

    Batches of varying sizes fragment the heap, and glibc keeps the holes: over many parts, some hundred megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def size(n_bytes: float) -> str:
    """Format a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
