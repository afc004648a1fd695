"""Strict validation of Serve config files before `serve deploy`.

Serve silently ignores unknown keys of a config file (`serve/config.yaml`), at every level: a misspelt setting keeps
its default. `read_deploy_config` rejects keys that Serve does not know, and, for raycol's application, unknown
settings (`args`), deployments and functions. It starts nothing and opens no index.

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

# Fields that Serve declares as a mapping and parses as this model later.
_PARSED_AS = {(ServeApplicationSchema, "autoscaling_policy"): AutoscalingPolicy}


def read_deploy_config(path: Path) -> ServeDeploySchema:
    """Read and validate a config file of `serve deploy`.

    Raises:
        InputError: the file does not exist, a key is unknown (the message has its path and the nearest known key), a
            value is invalid, or raycol has no such deployment or function.
    """
    return check_deploy_config(read_yaml_mapping(path), str(path))


def check_deploy_config(values: Mapping[str, Any], source: str) -> ServeDeploySchema:
    """Validate a parsed Serve config; `source` names it in messages. Raises `InputError`."""
    _check_keys(values, ServeDeploySchema, source, "")
    # Before the values: validating them imports some of the functions.
    for key_path, name in _functions(values):
        _check_function(name, source, key_path)
    _check_values(values, ServeDeploySchema, source, "")
    for number, application in enumerate(values["applications"]):
        if application["import_path"] == BUILDER:
            _check_application(application, source, f"applications[{number}]")
    return ServeDeploySchema.model_validate(values)


def _check_application(application: Mapping[str, Any], source: str, key_path: str) -> None:
    """Validate the settings in `args` and the names of raycol's deployments."""
    args = application.get("args") or {}
    _check_keys(args, ServeConfig, source, f"{key_path}.args")
    config = _check_values(args, ServeConfig, source, f"{key_path}.args")
    if "port" in config.model_fields_set:
        raise InputError(
            f"{source}: {key_path}.args.port has no effect; set http_options.port and remove {key_path}.args.port"
        )
    known = ["gateway", ENCODER, *(f"{SHARD}{number:04d}" for number in range(config.shards))]
    for number, deployment in enumerate(application.get("deployments") or ()):
        if deployment["name"] not in known:
            raise InputError(
                f"{source}: {key_path}.deployments[{number}].name is {deployment['name']!r}; raycol has no such "
                f"deployment with {config.shards} shards; the nearest is {_nearest(deployment['name'], known)!r}"
            )


def _check_keys(values: Any, model: type[BaseModel], source: str, key_path: str) -> None:
    """Raise `InputError` for the first unknown key, at any level."""
    if not isinstance(values, Mapping):
        return  # `_check_values` reports it
    aliases = {str(field.alias): name for name, field in model.model_fields.items() if field.alias}
    for key, value in values.items():
        child = f"{key_path}.{key}" if key_path else str(key)
        name = aliases.get(str(key), str(key))
        if name not in model.model_fields:
            _raise_unknown_key(key, model.model_fields, source, key_path)
        if name == "runtime_env" and isinstance(value, Mapping):
            for inner in value:
                if inner not in RuntimeEnv.known_fields:
                    _raise_unknown_key(inner, RuntimeEnv.known_fields, source, child)
        inner_model = _PARSED_AS.get((model, name)) or next(models_within(model.model_fields[name].annotation), None)
        if inner_model is None:
            continue
        items = (
            [(f"{child}[{n}]", item) for n, item in enumerate(value)] if isinstance(value, list) else [(child, value)]
        )
        for item_path, item in items:
            _check_keys(item, inner_model, source, item_path)


def _check_values(values: Any, model: type[Any], source: str, key_path: str) -> Any:
    """Validate with pydantic; the first error becomes a one-line `InputError`."""
    try:
        return model.model_validate(values)
    except ImportError as error:
        raise InputError(f"{source}: Serve cannot import a function ({error}); install its package here") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = field_path(first["loc"], key_path)
        if first["type"] == "missing":
            raise InputError(f"{source}: {where} is missing") from None
        reason = " ".join(first["msg"].removeprefix("Value error, ").split())
        if not first["loc"]:  # a model-level error: its input would be the whole mapping
            raise InputError(f"{source}: {f'{where}: ' if where else ''}{reason}") from None
        raise InputError(f"{source}: {where} is {first['input']!r}: {reason[:1].lower()}{reason[1:]}") from None


def _functions(values: Any, key_path: str = "") -> Iterator[tuple[str, str]]:
    """Every function named in the file, as (key path, import path)."""
    if isinstance(values, Mapping):
        for key, inner in values.items():
            child = f"{key_path}.{key}" if key_path else str(key)
            if key in ("import_path", "policy_function") and isinstance(inner, str):
                yield child, inner
            elif key != "args":
                yield from _functions(inner, child)
    elif isinstance(values, list):
        for number, inner in enumerate(values):
            yield from _functions(inner, f"{key_path}[{number}]")


def _check_function(name: str, source: str, key_path: str) -> None:
    """Import raycol's functions; other packages may be installed on the cluster only."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if module.split(".")[0] != "raycol":
        return
    try:
        getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise InputError(f"{source}: {key_path} is {name!r}; raycol has no such function") from None


def _raise_unknown_key(key: object, known: Iterable[str], source: str, key_path: str) -> None:
    where = f" in {key_path}" if key_path else ""
    raise InputError(
        f"{source}: unknown key {str(key)!r}{where}; the nearest known key is {_nearest(str(key), known)!r}"
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


if __name__ == "__main__":
    try:
        for file in sys.argv[1:]:
            read_deploy_config(Path(file))
            echo(f"{file}: valid")
    except InputError as error:
        echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
