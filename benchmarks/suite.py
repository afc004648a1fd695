"""Run the tests and print their wall time and the CPU seconds of all their processes, orphans included.

    python benchmarks/suite.py [arguments of pytest]        # default: what `make test` runs

Linux only: this process adopts processes whose parent has ended, such as Ray's, and so accounts for them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time

from measure import processor

_MAKE_TEST = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not long")
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run, measure, print."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "pytest", *(sys.argv[1:] or _MAKE_TEST)], check=False).returncode
    seconds = time.monotonic() - started
    while True:  # reap the processes that were left, the last of which may still be ending
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{processor()}\nwall time {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU s, exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
