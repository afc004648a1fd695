"""`raycol deploy`: switch running endpoints to another version without a failed request."""

from __future__ import annotations

from raycol.client.schema import VersionResponse
from raycol.client.sync_client import Client
from raycol.core.config import Config, Positive
from raycol.errors import InputError
from raycol.index.format.manifest import Manifest, read_manifest, versions
from raycol.serving.served_version import starting_version, write_served_version
from raycol.storage import Store, open_store


class DeployConfig(Config):
    """Settings of `raycol deploy`."""

    target: str
    """Folder or URI of an index, for all endpoints that serve it, or the URL of one endpoint (http://...), with its
    admin key in RAYCOL_API_KEY."""

    version: Positive | None = None
    """The version to serve, newer or older; the newest by default."""


def deploy(config: DeployConfig) -> VersionResponse:
    """Switch endpoints to a version: every replica of every shard opens it before requests use it.

    With the URL of an endpoint, wait for the switch. With an index, record the version, which the index's endpoints
    follow within seconds; an endpoint that cannot open it keeps the old version and logs the error.

    Returns:
        The version, and the previous one.

    Raises:
        InputError: the index, endpoint or version does not exist, or the version has another model.
        RaycolError: the endpoint cannot be reached or could not open the version; the record cannot be written.
    """
    if config.target.startswith(("http://", "https://")):
        with Client(config.target) as client:
            return client.set_version(config.version)
    store = open_store(config.target)
    before = read_manifest(store, starting_version(store, None)[0])
    manifest = manifest_to_serve(store, before, config.version)
    write_served_version(store, manifest.version, newest=config.version is None)
    return VersionResponse(version=manifest.version, before=before.version)


def manifest_to_serve(store: Store, before: Manifest, version: int | None) -> Manifest:
    """The manifest of a version to serve, None for the newest.

    Raises:
        InputError: the version does not exist, or has another model. The message goes to an endpoint's clients, so it
            does not contain the index's URI.
    """
    existing = versions(store)
    if version is not None and version not in existing:
        raise InputError(f"there is no version {version}; the index has {_format_ranges(existing)}")
    manifest = read_manifest(store, version)
    check_same_model(before, manifest)
    return manifest


def check_same_model(before: Manifest, after: Manifest) -> None:
    """Raise `InputError` if two versions have different models or dimensions: an endpoint has one encoder."""
    if (before.model, before.dim) != (after.model, after.dim):
        raise InputError(f"version {after.version} has another model; start a separate endpoint for it")


def _format_ranges(numbers: list[int]) -> str:
    """Ascending numbers as text, consecutive ones as ranges: "1 to 3, 7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join(" to ".join(map(str, ends)) for ends in ranges)
