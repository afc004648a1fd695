"""The Serve application: `build_app` for `raycol serve`, and for `serve run` and `serve deploy` by its path.

One deployment a shard, so that each has its own replicas and health; the encoder and the gateway beside.

Annotations are not postponed here: Serve looks at `build_app`'s to turn a config file's `args` into a
`ServeConfig`.
"""

from typing import Any

from ray import serve

from raycol.errors import InputError
from raycol.index.format.manifest import read_manifest
from raycol.serving import scaling
from raycol.serving.config import LOOPBACK, ServeConfig
from raycol.serving.encoder import QueryEncoder
from raycol.serving.endpoint import Settings
from raycol.serving.gateway import Gateway
from raycol.serving.keys import read_keys
from raycol.serving.served_version import starting_version
from raycol.serving.shard import Shard
from raycol.storage import absolute, open_store

# A dead replica is noticed in a second or two, and replaced.
_HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 5.0, "graceful_shutdown_timeout_s": 5.0}
# Beyond what gateways let through, which is all that may wait.
_ONGOING = 1024
# More than HAProxy has connections: a gateway's guard, not Serve, says whose request waits and whose is refused.
_GUARDED = 8192


def build_app(config: ServeConfig) -> Any:
    """Bind the deployments for an index.

    Raises:
        InputError: no index there, more shards than it has partitions, or no keys where some are needed.
    """
    store = open_store(absolute(config.index))
    version, seen = starting_version(store, config.version)
    manifest = read_manifest(store, version)
    if config.shards > len(manifest.partitions):
        raise InputError(
            f"{config.index}: {config.shards} shards for {len(manifest.partitions)} partitions; "
            "lower --shards, or build the index with smaller --docs-per-partition"
        )
    check_guarded(config)
    replicas = _replicas(config, config.replicas)
    shards = [
        serve.deployment(Shard)
        .options(name=f"{scaling.SHARD}{number:04d}", max_ongoing_requests=_ONGOING, **replicas, **_HEALTH)
        .bind(store.uri, manifest.version, seen, number, config.shards)
        for number in range(config.shards)
    ]
    model = manifest.model
    # Where no model is known, queries come as embeddings.
    encoder = (
        serve.deployment(QueryEncoder)
        .options(name=scaling.ENCODER, max_ongoing_requests=8192, **_replicas(config, _encoders(config)), **_HEALTH)
        .bind(config.model, model.model_dump() if model else None)
        if model or config.model
        else None
    )
    settings = Settings(
        index=store.uri,
        version=manifest.version,
        seen=seen,
        model=config.model,
        timeout_s=config.timeout_s,
        max_requests=config.max_requests,
        keys=None if config.keys is None else absolute(config.keys),
        cors=config.cors,
        host=config.host,
        allowed_hosts=config.allowed_hosts,
    )
    return (
        serve.deployment(Gateway)
        .options(name="gateway", max_ongoing_requests=_GUARDED, **_HEALTH)
        .bind(settings, encoder, shards)
    )


def check_guarded(config: ServeConfig) -> None:
    """Raise `InputError` where anyone could reach an endpoint without a key, or its keys cannot be read."""
    if config.keys is not None:
        read_keys(config.keys)
    if config.keys is None and not config.open and not config.loopback:
        raise InputError(
            f"host is {config.host or 'not said'}, and there are no keys: anyone who reaches it could search; make "
            f"keys with raycol key add and name their file (keys), bind to {LOOPBACK}, or set open"
        )


def cpus_needed(config: ServeConfig) -> int:
    """Logical CPUs that the application takes at most: one a replica, with the gateway and the encoder."""
    most = config.max_replicas or config.replicas
    return config.shards * most + 1 + max(config.max_replicas or 1, _encoders(config))


def _encoders(config: ServeConfig) -> int:
    # Where a shard may lose a replica, the encoder may too: no text is searched without one.
    return min(config.replicas, 2)


def _replicas(config: ServeConfig, least: int) -> dict[str, Any]:
    if config.max_replicas is None or config.max_replicas <= least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": scaling.TARGET,
            "policy": {"policy_function": "raycol.serving.scaling:alone"},
            "upscale_delay_s": 3.0,
            "downscale_delay_s": 60.0,
            "look_back_period_s": 15.0,
        }
    }
