"""Run the demo and print its wall time and the peak memory of all its processes together.

    python benchmarks/demo.py [options of raycol demo]

Memory is the proportional set size (PSS): a page that several processes share counts once. It is sampled twice a
second over the demo and all its descendants.
"""

from __future__ import annotations

import sys
import tempfile
import time

import psutil


def main() -> int:
    """Run, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from raycol.cli import main; main()", "demo", "--out", f"{folder}/demo"]
        started = time.monotonic()
        demo = psutil.Popen([*command, *sys.argv[1:]])
        peak = 0
        while demo.poll() is None:
            peak = max(peak, memory_of(demo))
            time.sleep(0.5)
        seconds = time.monotonic() - started
    print(f"wall time {seconds:.0f} s, peak memory {peak / 2**30:.2f} GiB in all, exit code {demo.returncode}")
    return int(demo.returncode)


def memory_of(root: psutil.Process) -> int:
    """PSS in bytes of a process and its descendants, without those that have ended."""
    total = 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
