"""Runs on each node: collects facts about the machine and about the processes that Ray starts there."""

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

from raycol.doctor.facts import NodeFacts, Usage
from raycol.doctor.shared import check_from_node

PACKAGES = ("ray", "raycol", "torch", "numpy", "pyarrow", "numba", "sentence-transformers")
_TORCH_TIMEOUT_S = 120


def gather(
    node: str, is_head: bool, resources: dict[str, float], uris: Iterable[str], token: str, session_dir: str
) -> NodeFacts:
    """Return the facts of the node that this runs on.

    Args:
        node: its name in reports.
        is_head: whether it is the head.
        resources: Ray's logical resources.
        uris: folders and URIs to read and write.
        token: content of the driver's marker file in each of them, and part of its name.
        session_dir: Ray's session folder, whose disk is checked.
    """
    gpus = count_gpus()
    usable, problem = usable_gpus() if gpus or resources.get("GPU") else (None, "")
    return NodeFacts(
        node=node,
        is_head=is_head,
        versions=versions(),
        token=requires_token(),
        python=_resolve_folder(python) if (python := shutil.which("python")) else None,
        executable=_resolve_folder(sys.executable),
        resources=resources,
        gpus=gpus,
        usable_gpus=usable,
        gpu_problem=problem,
        memory=memory(),
        disk=disk(session_dir),
        shared={uri: check_from_node(uri, token, node) for uri in uris},
    )


def _resolve_folder(program: str) -> str:
    """A program's path with links in its folder resolved. The program itself is a link in a virtual environment."""
    return os.path.join(os.path.realpath(os.path.dirname(program)), os.path.basename(program))


def now() -> float:
    """The node's clock, in seconds since the epoch."""
    return time.time()


def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`, from metadata, without importing them."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    if "raycol" in installed:  # the imported code may differ from the installed one: a job brings its own
        from raycol.core.version import __version__

        installed["raycol"] = __version__
    return installed


def requires_token() -> bool:
    """Whether this node's Ray processes require a token."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def count_gpus() -> int:
    """Number of NVIDIA devices of this machine, usable or not."""
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def usable_gpus() -> tuple[int | None, str]:
    """Number of devices that torch sees, or None and the reason. Runs in a process where Ray hides no devices."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count() * torch.cuda.is_available())"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TORCH_TIMEOUT_S)  # noqa: S603
        return int(done.stdout), ""
    except subprocess.TimeoutExpired:
        return None, f"torch does not answer within {_TORCH_TIMEOUT_S} seconds"
    except ValueError:
        return None, (done.stderr.strip() or "torch prints nothing").splitlines()[-1]


def memory() -> Usage:
    """Memory of this machine, or of its container's limit."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    total = min(int(get_system_memory()), psutil.virtual_memory().total)
    used = int(get_used_memory())
    return Usage(total=total, free=max(0, min(total - used, psutil.virtual_memory().available)))


def disk(folder: str) -> Usage | None:
    """Usage of the disk that a folder is on; None if the folder does not exist."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Usage(total=usage.total, free=usage.free)
