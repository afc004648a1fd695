"""The YAML files of the project, and copies of them with one change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import PROJECT

CLUSTER = PROJECT / "cluster"
LAUNCHERS = ("aws", "gcp", "on-prem")
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
CUSTOM = ("RayCluster", "RayJob", "RayService", "RayCronJob")


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def launcher(name: str) -> dict[str, Any]:
    return load(CLUSTER / f"{name}.yaml")


def manifest(kind: str) -> dict[str, Any]:
    (match,) = [document for document in map(load, MANIFESTS) if document["kind"] == kind]
    return match


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every mapping's keys, outer mappings first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, dict):
            yield (*path, key)
        yield from keys_of(inner, (*path, key))


def misspelt(document: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy with the last two letters of one key swapped, or an s appended if they are equal."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    word = str(path[-1])
    swapped = word[:-2] + word[:-3:-1]
    inner[swapped if swapped != word else word + "s"] = inner.pop(path[-1])
    return document


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with one value changed."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod template in a manifest."""
    if isinstance(value, dict):
        if "containers" in value.get("template", {}).get("spec", {}):
            yield value["template"]
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)
