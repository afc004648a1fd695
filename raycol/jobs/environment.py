"""The runtime environment of a job: its working directory, variables, and what else Ray takes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycol.core.config import read_yaml_mapping
from raycol.errors import InputError
from raycol.jobs.package import Package
from raycol.jobs.token import MODE, TOKEN, TOKEN_FILE

_OURS = {"working_dir": "--working-dir", "excludes": "--exclude"}


def runtime_env(package: Package, variables: Sequence[str], file: Path | None) -> dict[str, Any]:
    """What Ray is to set up.

    Args:
        package: what is sent.
        variables: NAME=VALUE each, or NAME, which takes the value that it has here.
        file: YAML with further fields of Ray's, such as pip or env_vars.

    Raises:
        InputError: unknown fields, values that Ray does not take, variables that are not set.
    """
    fields = _read(file) if file else {}
    env_vars = {**(fields.get("env_vars") or {}), **dict(map(_variable, variables))}
    for name in (MODE, TOKEN, TOKEN_FILE):
        if name in env_vars:
            raise InputError(
                f"{name} among a job's variables, where everyone who lists jobs can read it; leave it out: the "
                "cluster's nodes have it from the one who started them"
            )
    made = {**fields, "working_dir": str(package.folder), "excludes": package.excludes}
    return {**made, "env_vars": env_vars} if env_vars else made


def _variable(given: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    name, sign, value = given.partition("=")
    if not name or not name.replace("_", "a").isalnum() or name[0].isdigit():
        # What stands there may be a secret; only what is before the sign is shown.
        raise InputError(f"--env {name!r}: not a variable's name; expected NAME=VALUE, or NAME")
    if not sign and name not in environment:
        raise InputError(f"--env {name}: not set here; expected NAME=VALUE, or the name of a variable that is set")
    return name, value if sign else environment[name]


def _read(file: Path) -> dict[str, Any]:
    from ray.runtime_env import RuntimeEnv

    fields = read_yaml_mapping(file)
    known = sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_") and name not in _OURS)
    for name in fields:
        if name in _OURS:
            raise InputError(f"{file}: {name} has an option of its own, {_OURS[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise InputError(
                f"{file}: unknown field {name!r} of a runtime environment; the nearest known one is {near!r}"
            )
    try:
        RuntimeEnv(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from None
    return fields
