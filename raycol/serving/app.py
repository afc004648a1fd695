"""The Serve application: `build_app`, called by `raycol serve` and named in the config of `serve deploy`.

One deployment per shard, each with its own replicas and health checks, plus the encoder and the gateway.

No `from __future__ import annotations`: Serve reads `build_app`'s annotation to parse `args` as a `ServeConfig`.
"""

from typing import Any

from ray import serve

from raycol.errors import InputError
from raycol.index.format.manifest import read_manifest
from raycol.serving import scaling
from raycol.serving.config import LOOPBACK, ServeConfig
from raycol.serving.encoder import QueryEncoder
from raycol.serving.gateway import Gateway
from raycol.serving.gateway_state import GatewaySettings
from raycol.serving.keys import read_keys
from raycol.serving.served_version import starting_version
from raycol.serving.shard import Shard
from raycol.storage import absolute, open_store

# Serve notices and replaces a dead replica within one or two seconds.
_HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 5.0, "graceful_shutdown_timeout_s": 5.0}
# More than the gateways admit, so that Serve never queues.
_SHARD_ONGOING = 1024
# More than HAProxy's connections: the gateway's `Guard` does admission control, not Serve.
_GATEWAY_ONGOING = 8192


def build_app(config: ServeConfig) -> Any:
    """Bind the deployments of an endpoint.

    Raises:
        InputError: the index does not exist or has fewer partitions than `shards`, or keys are required and missing.
    """
    store = open_store(absolute(config.index))
    version, recorded_at = starting_version(store, config.version)
    manifest = read_manifest(store, version)
    if config.shards > len(manifest.partitions):
        raise InputError(
            f"{config.index}: {config.shards} shards for {len(manifest.partitions)} partitions; "
            "lower `shards=`, or build the index with smaller `docs_per_partition=`"
        )
    check_access(config)
    replicas = _replicas(config, config.replicas)
    shards = [
        serve.deployment(Shard)
        .options(name=f"{scaling.SHARD}{number:04d}", max_ongoing_requests=_SHARD_ONGOING, **replicas, **_HEALTH)
        .bind(store.uri, manifest.version, recorded_at, number, config.shards)
        for number in range(config.shards)
    ]
    model = manifest.model
    # Without a model, the endpoint accepts embeddings only.
    encoder = (
        serve.deployment(QueryEncoder)
        .options(name=scaling.ENCODER, max_ongoing_requests=8192, **_replicas(config, _encoders(config)), **_HEALTH)
        .bind(config.model, model.model_dump() if model else None)
        if model or config.model
        else None
    )
    settings = GatewaySettings(
        index=store.uri,
        version=manifest.version,
        recorded_at=recorded_at,
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
        .options(name="gateway", max_ongoing_requests=_GATEWAY_ONGOING, **_HEALTH)
        .bind(settings, encoder, shards)
    )


def check_access(config: ServeConfig) -> None:
    """Raise `InputError` if the endpoint would be public without keys, or its keys cannot be read."""
    if config.keys is not None:
        read_keys(config.keys)
    if config.keys is None and not config.open and not config.loopback:
        raise InputError(
            f"host is {config.host or 'not set'} and keys is not set: anyone who reaches the endpoint could search; "
            f"create keys with raycol key add and set keys to their file, set host to {LOOPBACK}, or set open"
        )


def cpus_needed(config: ServeConfig) -> int:
    """Maximum logical CPUs of the application: one per replica, including the gateway and the encoder."""
    max_replicas = config.max_replicas or config.replicas
    return config.shards * max_replicas + 1 + max(config.max_replicas or 1, _encoders(config))


def _encoders(config: ServeConfig) -> int:
    # If shards survive the loss of a replica, the encoder must too.
    return min(config.replicas, 2)


def _replicas(config: ServeConfig, min_replicas: int) -> dict[str, Any]:
    if config.max_replicas is None or config.max_replicas <= min_replicas:
        return {"num_replicas": min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": scaling.TARGET_REQUESTS,
            "policy": {"policy_function": "raycol.serving.scaling:scale_alone"},
            "upscale_delay_s": 3.0,
            "downscale_delay_s": 60.0,
            "look_back_period_s": 15.0,
        }
    }
