"""The runtime environment of a job: its working directory, variables, and further fields of Ray's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycol.core.config import read_yaml_mapping
from raycol.errors import InputError
from raycol.jobs.connection import MODE, TOKEN, TOKEN_FILE
from raycol.jobs.package import Package

_OPTIONS = {"working_dir": "--working-dir", "excludes": "--exclude"}


def runtime_env(package: Package, variables: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Return the runtime environment that Ray sets up for the job.

    Args:
        package: the files to upload.
        variables: NAME=VALUE each, or NAME to copy its value from this process.
        file: YAML with further fields of Ray's, such as pip or env_vars.

    Raises:
        InputError: an unknown field, a value that Ray refuses, a variable that is not set.
    """
    fields = _read(file) if file else {}
    env_vars = {**(fields.get("env_vars") or {}), **dict(map(_variable, variables))}
    for name in (MODE, TOKEN, TOKEN_FILE):
        if name in env_vars:
            raise InputError(
                f"{name} in a job's variables: everyone who lists jobs can read it; leave it out, the cluster's nodes "
                "already have it"
            )
    environment = {**fields, "working_dir": str(package.folder), "excludes": package.excludes}
    return {**environment, "env_vars": env_vars} if env_vars else environment


def _variable(option: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not name or not name.replace("_", "a").isalnum() or name[0].isdigit():
        # The value may be a secret: the message shows only the name.
        raise InputError(f"--env {name!r}: not a variable's name; expected NAME=VALUE, or NAME")
    if not equals and name not in environment:
        raise InputError(f"--env {name}: not set in this process; expected NAME=VALUE, or a variable that is set")
    return name, value if equals else environment[name]


def _read(file: Path) -> dict[str, Any]:
    from ray.runtime_env import RuntimeEnv

    fields = read_yaml_mapping(file)
    known = sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_") and name not in _OPTIONS)
    for name in fields:
        if name in _OPTIONS:
            raise InputError(f"{file}: {name} is not a field to set here; use {_OPTIONS[name]}")
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
