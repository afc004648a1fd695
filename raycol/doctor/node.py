"""What runs on a node: it gathers the facts of the machine and the processes that Ray starts there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from raycol.doctor.facts import NodeFacts, Room
from raycol.doctor.shared import try_place

PACKAGES = ("ray", "raycol", "torch", "numpy", "pyarrow", "numba", "sentence-transformers")
_GPU_S = 120


def gather(
    node: str, is_head: bool, resources: dict[str, float], places: Iterable[str], token: str, folder: str
) -> NodeFacts:
    """The facts of the node that this runs on.

    Args:
        node: what it is called.
        is_head: whether it is the head.
        resources: what Ray has to give there.
        places: folders and URIs to read and write.
        token: what stands in them already, and under which name.
        folder: of Ray's, whose disk counts.
    """
    gpus = count_gpus()
    usable, problem = usable_gpus() if gpus or resources.get("GPU") else (None, "")
    return NodeFacts(
        node=node,
        is_head=is_head,
        versions=versions(),
        token=has_token_mode(),
        python=_plainly(found) if (found := shutil.which("python")) else None,
        executable=_plainly(sys.executable),
        resources=resources,
        gpus=gpus,
        usable_gpus=usable,
        gpu_problem=problem,
        memory=memory(),
        disk=disk(folder),
        shared={place: try_place(place, token, node) for place in places},
    )


def _plainly(program: str) -> str:
    """A program's path without links to its folder; the program itself is a link in a virtual environment."""
    return os.path.join(os.path.realpath(os.path.dirname(program)), os.path.basename(program))


def now() -> float:
    """The node's clock."""
    return time.time()


def versions() -> dict[str, str]:
    """Versions of Python and of what matters, without loading it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "raycol" in found:  # of the code that runs here: a job brings its own
        import raycol

        found["raycol"] = raycol.__version__
    return found


def has_token_mode() -> bool:
    """Whether Ray's processes here take part with a token only."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def count_gpus() -> int:
    """NVIDIA devices of this machine, whether or not anything can use them."""
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def usable_gpus() -> tuple[int | None, str]:
    """Devices that torch sees, and why none can be told: asked in a process from which Ray hides none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count() * torch.cuda.is_available())"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_GPU_S)  # noqa: S603
        return int(done.stdout), ""
    except subprocess.TimeoutExpired:
        return None, f"torch does not answer within {_GPU_S} seconds"
    except ValueError:
        return None, (done.stderr.strip() or "torch says nothing").splitlines()[-1]


def memory() -> Room:
    """Memory of this machine, or of the container that it is given."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    total = min(int(get_system_memory()), psutil.virtual_memory().total)
    used = int(get_used_memory())
    return Room(total=total, free=max(0, min(total - used, psutil.virtual_memory().available)))


def disk(folder: str) -> Room | None:
    """The room on the disk of a folder; None where there is no such folder."""
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return None
    return Room(total=found.total, free=found.free)
