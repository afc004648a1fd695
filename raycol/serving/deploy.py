"""`raycol deploy`: another version for running endpoints, without a failed request."""

from __future__ import annotations

from raycol.client.schema import VersionResponse
from raycol.client.sync_client import Client
from raycol.core.config import Config, Positive
from raycol.errors import InputError
from raycol.index.format.manifest import Manifest, read_manifest, versions
from raycol.serving.served_version import starting_version, write_pin
from raycol.storage import Store, open_store


class DeployConfig(Config):
    """Settings of `raycol deploy`."""

    target: str
    """An index's folder or URI, for all endpoints that serve it, or the address of one endpoint (http://...), whose
    admin key is in RAYCOL_API_KEY."""

    version: Positive | None = None
    """The version to serve, newer or older; by default the newest."""


def deploy(config: DeployConfig) -> VersionResponse:
    """Have a version served: every replica of every shard opens it, and requests from then on are answered from it.

    An endpoint that is named is waited for, and says what went wrong. Of an index the choice is recorded, which its
    endpoints follow within seconds; where one of them cannot, it serves what it served, and its log says why.

    Returns:
        The version, and the one that was served, or chosen, before.

    Raises:
        InputError: there is no such index, endpoint or version, or the version is of another model.
        RaycolError: the endpoint cannot be reached or could not open the version; the record cannot be written.
    """
    if config.target.startswith(("http://", "https://")):
        with Client(config.target) as client:
            return client.set_version(config.version)
    store = open_store(config.target)
    before = read_manifest(store, starting_version(store, None)[0])
    manifest = manifest_to_serve(store, before, config.version)
    write_pin(store, manifest.version, newest=config.version is None)
    return VersionResponse(version=manifest.version, before=before.version)


def manifest_to_serve(store: Store, before: Manifest, version: int | None) -> Manifest:
    """The manifest of a version, None for the newest, to be served in place of another.

    Raises:
        InputError: there is no such version, or it is of another model. It does not name the place of the index, which
            an endpoint's clients need not know.
    """
    have = versions(store)
    if version is not None and version not in have:
        raise InputError(f"there is no version {version}; it has {_spans(have)}")
    manifest = read_manifest(store, version)
    check_same_model(before, manifest)
    return manifest


def check_same_model(before: Manifest, after: Manifest) -> None:
    """Raise `InputError` where an endpoint's encoder is not the one of the version that is to be served."""
    if (before.model, before.dim) != (after.model, after.dim):
        raise InputError(f"version {after.version} is of another model; deploy an endpoint of its own for it")


def _spans(numbers: list[int]) -> str:
    """Numbers in order, those without gaps as spans: 1 to 3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans)
