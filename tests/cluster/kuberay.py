"""Strict JSON Schemas of KubeRay's resources: its own fields from `kuberay_fields.yaml`, the rest Kubernetes' own.

Kubernetes' types are those that the package kubernetes-validate carries, in their strict form, which refuses unknown
fields.
"""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator, ValidationError
from ray.scripts.scripts import start
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.cluster.documents import load

KUBERNETES = "1.37.0"
_FIELDS = Path(__file__).with_name("kuberay_fields.yaml")
_PLAIN = {"string", "integer", "number", "boolean"}
_META = {"ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
# Resources that a pod may request; Kubernetes' schema allows any name.
_RESOURCES = {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
# Labels that selectors may use: KubeRay sets the first on every Ray pod, Kubernetes the second.
_LABELS = {"ray.io/is-ray-node", "kubernetes.io/metadata.name"}
_START_OPTIONS = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}


def check(document: dict[str, Any]) -> None:
    """Raise ValidationError if a manifest has an unknown field, a missing one, or a value of the wrong type."""
    if not {"apiVersion", "kind"} <= document.keys():
        raise ValidationError("neither apiVersion nor kind may be missing")
    if document["apiVersion"] == "ray.io/v1":
        schema = {"$ref": f"kuberay#/$defs/{document['kind']}"}
        Draft202012Validator(schema, registry=_registry()).validate(document)
    else:
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            raise ValidationError(error.message) from None
    _check_names(document)


def _check_names(value: Any) -> None:
    """Check names in mappings whose keys the schemas leave open."""
    if isinstance(value, list):
        for inner in value:
            _check_names(inner)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key == "rayStartParams" and (wrong := set(inner) - _START_OPTIONS):
            raise ValidationError(f"ray start has no option {wrong}")
        if key == "matchLabels" and (wrong := set(inner) - _LABELS):
            raise ValidationError(f"nothing has a label {wrong}")
        if key == "resources" and "template" not in inner:
            for amounts in inner.values():
                if wrong := set(amounts) - _RESOURCES - {"storage"}:
                    raise ValidationError(f"no resource {wrong}")
        _check_names(inner)


@cache
def _kubernetes() -> dict[str, Any]:
    folder = (
        importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
    )
    return json.loads((folder / "_definitions.json").read_text())


@cache
def _registry() -> Registry[Any]:
    types = {name: _mapping(fields) for name, fields in load(_FIELDS).items()}
    kuberay = Resource.from_contents({"$id": "kuberay", "$defs": types}, DRAFT202012)
    return Registry().with_resources([("kuberay", kuberay)]).with_contents([(_kubernetes()["$id"], _kubernetes())])


def _mapping(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name.removesuffix("!"): _type(kind) for name, kind in fields.items()},
        "required": [name.removesuffix("!") for name in fields if name.endswith("!")],
    }


def _type(kind: str | list[str]) -> dict[str, Any]:
    if isinstance(kind, list):
        return {"type": "array", "items": _type(kind[0])}
    if kind in _PLAIN:
        return {"type": kind}
    if kind == "map":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if kind.startswith("k8s."):
        name = kind.removeprefix("k8s.")
        return {"$ref": f"{_kubernetes()['$id']}#/$defs/{_META.get(name, f'io.k8s.api.core.v1.{name}')}"}
    if "|" in kind or kind in ("ray.io/v1", "RayCluster", "RayJob", "RayService", "RayCronJob"):
        return {"enum": kind.split("|")}
    return {"$ref": f"kuberay#/$defs/{kind}"}
