"""A strict check of launcher files: Ray's own schema, and the fields that Ray does not check.

Under `provider`, Ray takes any key; the known ones are those that its sources read. A type's `node_config` is what the
cloud is asked for as it is: the parameters of EC2's RunInstances (botocore's model of it), or a Compute Engine
instance (the discovery document in google-api-python-client).
"""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import ray.autoscaler._private as autoscaler
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.documents import load
from tests.conftest import PROJECT

# Where Ray reads what stands under `provider`: what is for every cloud, and what is for one.
_COMMON = ("updater.py", "commands.py", "providers.py")
_OWN = {"aws": "aws", "gcp": "gcp", "local": "local"}
_READ = re.compile(r"""provider(?:_config|_cfg)?(?:["']\])?(?:\[|\.get\(\s*)["']([a-z]\w*)["']""")
# Keys of an AWS node_config that Ray removes before the request to EC2.
_RAY_KEYS = {"SubnetIds"}


_TOKEN = "~/.ray/auth_token"
# Created on the node by its first command, not copied.
_ENVIRONMENTS = ("~/raycol/venv", "~/raycol/bin")


class LauncherError(Exception):
    """A launcher file that Ray or the cloud would refuse or misread."""


def check(config: dict[str, Any]) -> None:
    """Raise LauncherError, or Ray's own error, if Ray or the cloud would not accept the file."""
    validate_config(prepare_config(copy.deepcopy(config)))
    kind = config["provider"]["type"]
    if unknown := set(config["provider"]) - provider_keys(kind):
        raise LauncherError(f"nothing in Ray reads {unknown} under provider")
    _check_files(config)
    for name, node_type in config.get("available_node_types", {}).items():
        if node_type["labels"].keys() != {"market"}:
            raise LauncherError(f"{name}: nothing asks for the labels {node_type['labels']}")
        {"aws": _check_aws, "gcp": _check_gcp}[kind](name, node_type)


def commands(config: dict[str, Any]) -> list[str]:
    """All commands that run on a node."""
    return [command for key, value in config.items() if key.endswith("_commands") for command in value]


def _check_files(config: dict[str, Any]) -> None:
    """Every copied file is used, and every used file is copied."""
    mounts = set(config["file_mounts"])
    if _TOKEN not in mounts:
        raise LauncherError(f"the token is not copied to {_TOKEN}, where Ray reads it")
    words = [word.rstrip(";") for command in commands(config) for word in command.split()]
    used = {word for word in words if word.startswith("~/raycol/") and not word.startswith(_ENVIRONMENTS)}
    if config["provider"]["type"] != "local":
        keys = load(PROJECT / "serve" / "on-demand.yaml")["applications"][0]["args"]["keys"]
        used.add(keys.replace(f"/home/{config['auth']['ssh_user']}", "~"))
    if unused := {mount for mount in mounts - {_TOKEN} if not any(word.startswith(mount) for word in used)}:
        raise LauncherError(f"nothing reads {unused}")
    if missing := {word for word in used if not any(word.startswith(mount) for mount in mounts)}:
        raise LauncherError(f"nothing puts {missing} there")


@cache
def provider_keys(kind: str) -> set[str]:
    """Keys of `provider` that Ray reads for a cloud."""
    folder = Path(next(iter(autoscaler.__path__)))
    sources = [folder / name for name in _COMMON] + sorted((folder / _OWN[kind]).rglob("*.py"))
    return {key for path in sources for key in _READ.findall(path.read_text())}


def _check_aws(name: str, node_type: dict[str, Any]) -> None:
    shape = _run_instances()
    values = {key: value for key, value in node_type["node_config"].items() if key not in _RAY_KEYS}
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **values}, shape)
    if report.has_errors():
        raise LauncherError(f"{name}: {report.generate_report()}")
    _check_enums(name, values, shape)
    from moto.ec2.models.instance_types import INSTANCE_TYPES  # takes a second to import

    instance_type = INSTANCE_TYPES[values["InstanceType"]]
    gpus = sum(gpu["Count"] for gpu in instance_type.get("GpuInfo", {}).get("Gpus", ()))
    _check_resources(name, node_type["resources"], instance_type["VCpuInfo"]["DefaultVCpus"], gpus)


def _check_enums(name: str, value: Any, shape: Any) -> None:
    """Check the values of enums: botocore checks only types."""
    if shape.type_name == "structure":
        for key, inner in value.items():
            _check_enums(name, inner, shape.members[key])
    elif shape.type_name == "list":
        for inner in value:
            _check_enums(name, inner, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        raise LauncherError(f"{name}: EC2 has no {shape.name} {value!r}")


def _check_gcp(name: str, node_type: dict[str, Any]) -> None:
    _check_gcp_value(name, node_type["node_config"], {"$ref": "Instance"})
    machine = node_type["node_config"]["machineType"]
    # A machine type ends with its number of vCPUs; a g2 has one L4 per 12 vCPUs, at least one.
    cpus = int(machine.rpartition("-")[2])
    _check_resources(name, node_type["resources"], cpus, max(1, cpus // 12) if machine.startswith("g2-") else 0)


def _check_gcp_value(path: str, value: Any, schema: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = _compute()[schema["$ref"]]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds[schema["type"]]):
        raise LauncherError(f"{path} is {value!r}; Compute Engine takes a {schema['type']}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in schema.get("properties", {}):
                raise LauncherError(f"{path}: Compute Engine has no {key!r}")
            _check_gcp_value(f"{path}.{key}", inner, schema["properties"][key])
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_gcp_value(f"{path}[{number}]", inner, schema["items"])
    elif value not in schema.get("enum", (value,)):
        raise LauncherError(f"{path} is {value!r}; Compute Engine has {schema['enum']}")


def _check_resources(name: str, resources: dict[str, int], cpus: int, gpus: int) -> None:
    """A node type must declare all CPUs and GPUs of its machine, or no CPUs."""
    if resources.get("CPU") not in (0, cpus) or resources.get("GPU", 0) != gpus:
        raise LauncherError(f"{name}: the machine has {cpus} vCPUs and {gpus} GPUs, and the type says {resources}")
    if unknown := set(resources) - {"CPU", "GPU", "spot"}:
        raise LauncherError(f"{name}: no job asks for {unknown}")


@cache
def _run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@cache
def _compute() -> dict[str, Any]:
    documents = importlib.resources.files("googleapiclient.discovery_cache") / "documents"
    return json.loads((documents / "compute.v1.json").read_text())["schemas"]
