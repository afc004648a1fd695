"""Serve's own config files, checked strictly before `serve deploy` has them: `read_deploy_config`.

Serve takes a file of settings (`serve/config.yaml`) and passes over keys that it does not know, at every level: what
was misspelt has its default. Here each key must be one that Serve knows, and an application of raycol must have
settings (`args`), deployments and functions that raycol has. Nothing is started and no index is opened.

    python -m raycol.serving.deploy_config serve/config.yaml
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from raycol.core.config import field_path, models_within, read_yaml_mapping
from raycol.core.escaping import echo
from raycol.errors import InputError
from raycol.serving.config import ServeConfig
from raycol.serving.scaling import ENCODER, SHARD

BUILDER = "raycol.serving.app:build_app"

# What Serve declares as a plain mapping, and reads as one of these later.
_READ_AS = {(ServeApplicationSchema, "autoscaling_policy"): AutoscalingPolicy}


def read_deploy_config(path: Path) -> ServeDeploySchema:
    """Read a Serve config file, as `serve deploy` takes it.

    Raises:
        InputError: there is no such file, a key is unknown (the message says where, and the nearest known one), a
            value is not what Serve or raycol takes, or something of raycol's that it names does not exist.
    """
    return check_deploy_config(read_yaml_mapping(path), str(path))


def check_deploy_config(values: Mapping[str, Any], source: str) -> ServeDeploySchema:
    """Check what a Serve config holds; `source` is where it was read. Raises `InputError`."""
    _check_keys(values, ServeDeploySchema, source, "")
    # Before the values: Serve imports some of the functions while it reads them.
    for where, name in _functions(values):
        _check_function(name, source, where)
    _check_values(values, ServeDeploySchema, source, "")
    for number, application in enumerate(values["applications"]):
        if application["import_path"] == BUILDER:
            _check_application(application, source, f"applications[{number}]")
    return ServeDeploySchema.model_validate(values)


def _check_application(application: Mapping[str, Any], source: str, place: str) -> None:
    """Check what only raycol knows of: the settings in `args`, and the names of its deployments."""
    args = application.get("args") or {}
    _check_keys(args, ServeConfig, source, f"{place}.args")
    config = _check_values(args, ServeConfig, source, f"{place}.args")
    if "port" in config.model_fields_set:
        raise InputError(
            f"{source}: {place}.args.port has no effect: Serve listens where http_options.port says; say it there, "
            f"and leave {place}.args.port out"
        )
    known = ["gateway", ENCODER, *(f"{SHARD}{number:04d}" for number in range(config.shards))]
    for number, deployment in enumerate(application.get("deployments") or ()):
        if deployment["name"] not in known:
            raise InputError(
                f"{source}: {place}.deployments[{number}].name is {deployment['name']!r}; raycol has no such "
                f"deployment with {config.shards} shards; the nearest is {_nearest(deployment['name'], known)!r}"
            )


def _check_keys(values: Any, model: type[BaseModel], source: str, place: str) -> None:
    """Refuse the first key, here or below, that the model does not have."""
    if not isinstance(values, Mapping):
        return  # what it should be is said when values are checked
    aliases = {str(field.alias): name for name, field in model.model_fields.items() if field.alias}
    for key, value in values.items():
        below = f"{place}.{key}" if place else str(key)
        name = aliases.get(str(key), str(key))
        if name not in model.model_fields:
            _refuse(key, model.model_fields, source, place)
        if name == "runtime_env" and isinstance(value, Mapping):
            for inner in value:
                if inner not in RuntimeEnv.known_fields:
                    _refuse(inner, RuntimeEnv.known_fields, source, below)
        inner_model = _READ_AS.get((model, name)) or next(models_within(model.model_fields[name].annotation), None)
        if inner_model is None:
            continue
        items = (
            [(f"{below}[{n}]", item) for n, item in enumerate(value)] if isinstance(value, list) else [(below, value)]
        )
        for where, item in items:
            _check_keys(item, inner_model, source, where)


def _check_values(values: Any, model: type[Any], source: str, place: str) -> Any:
    """Build the model. What pydantic says of the first wrong value becomes one line of ours."""
    try:
        return model.model_validate(values)
    except ImportError as error:
        raise InputError(f"{source}: Serve cannot import what the file names ({error}); install it here too") from None
    except ValidationError as error:
        found = error.errors()[0]
        where = field_path(found["loc"], place)
        if found["type"] == "missing":
            raise InputError(f"{source}: {where} is missing") from None
        reason = " ".join(found["msg"].removeprefix("Value error, ").split())
        if not found["loc"]:  # of several values together, all of which would be repeated
            raise InputError(f"{source}: {f'{where}: ' if where else ''}{reason}") from None
        raise InputError(f"{source}: {where} is {found['input']!r}: {reason[:1].lower()}{reason[1:]}") from None


def _functions(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every function that the file names, with where it does."""
    if isinstance(values, Mapping):
        for key, inner in values.items():
            below = f"{place}.{key}" if place else str(key)
            if key in ("import_path", "policy_function") and isinstance(inner, str):
                yield below, inner
            elif key != "args":
                yield from _functions(inner, below)
    elif isinstance(values, list):
        for number, inner in enumerate(values):
            yield from _functions(inner, f"{place}[{number}]")


def _check_function(name: str, source: str, place: str) -> None:
    """Import what is named of raycol; other packages may be on the cluster only."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if module.split(".")[0] != "raycol":
        return
    try:
        getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise InputError(f"{source}: {place} is {name!r}; raycol has no such function") from None


def _refuse(key: object, known: Iterable[str], source: str, place: str) -> None:
    there = f" in {place}" if place else ""
    raise InputError(
        f"{source}: unknown key {str(key)!r}{there}; the nearest known key there is {_nearest(str(key), known)!r}"
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


if __name__ == "__main__":
    try:
        for file in sys.argv[1:]:
            read_deploy_config(Path(file))
            echo(f"{file}: every key and value is one that Serve and raycol take")
    except InputError as error:
        echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
