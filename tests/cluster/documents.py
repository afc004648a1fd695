"""The YAML files of the project, and copies of them with one thing changed."""

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
    return yaml.safe_load(path.read_text())


def launcher(name: str) -> dict[str, Any]:
    return load(CLUSTER / f"{name}.yaml")


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [document for document in map(load, MANIFESTS) if document["kind"] == kind]
    return found


def keys_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every key of every mapping inside, from the outermost inwards."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, dict):
            yield (*place, key)
        yield from keys_of(inner, (*place, key))


def misspelt(document: Any, place: tuple[Any, ...]) -> Any:
    """A copy in which the last two letters of one key are the other way round; one more where they are the same."""
    document = copy.deepcopy(document)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    word = str(place[-1])
    swapped = word[:-2] + word[:-3:-1]
    inner[swapped if swapped != word else word + "s"] = inner.pop(place[-1])
    return document


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy in which one value is another."""
    document = copy.deepcopy(document)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return document


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod template inside a manifest."""
    if isinstance(value, dict):
        if "containers" in value.get("template", {}).get("spec", {}):
            yield value["template"]
        for inner in value.values():
            yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)
