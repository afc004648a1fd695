"""The Serve application: `build_app` for `raycol serve`, and for `serve run` and `serve deploy` by its path.

One deployment a shard, so that each has its own replicas and health; the encoder and the gateway beside.

Annotations are not postponed here: Serve looks at `build_app`'s to turn a config file's `args` into a
`ServeConfig`.
"""

from typing import Any

from ray import serve

from raycol.errors import InputError
from raycol.index.manifest import read_manifest
from raycol.index.storage import absolute, open_store
from raycol.serving.config import ServeConfig
from raycol.serving.encoder import QueryEncoder
from raycol.serving.gateway import Gateway
from raycol.serving.schema import IndexDescription
from raycol.serving.shard import Shard, assign_partitions


def build_app(config: ServeConfig) -> Any:
    """Bind the deployments for the current version of an index.

    Raises:
        InputError: no index there, or more shards than it has partitions.
    """
    store = open_store(absolute(config.index))
    manifest = read_manifest(store)
    if config.shards > len(manifest.partitions):
        raise InputError(
            f"{config.index}: {config.shards} shards for {len(manifest.partitions)} partitions; "
            "lower --shards, or build the index with smaller --docs-per-partition"
        )
    shards = [
        serve.deployment(Shard)
        .options(name=f"shard-{number:04d}", num_replicas=config.replicas, max_ongoing_requests=16)
        .bind(store.uri, manifest.version, partitions)
        for number, partitions in enumerate(assign_partitions(manifest.partitions, config.shards))
    ]
    model = manifest.model
    encoder = (
        serve.deployment(QueryEncoder)
        .options(name="query-encoder", max_ongoing_requests=16)
        .bind(config.model, model.model_dump() if model else None)
    )
    description = IndexDescription(
        version=manifest.version,
        documents=manifest.documents,
        tokens=manifest.tokens,
        dim=manifest.dim,
        bits=manifest.bits,
        shards=config.shards,
        model=config.model or (model.name if model else None),
    )
    return (
        serve.deployment(Gateway)
        .options(name="gateway", max_ongoing_requests=64, max_queued_requests=256)
        .bind(encoder, shards, description.model_dump(), config.timeout_s)
    )


def cpus_needed(config: ServeConfig) -> int:
    """Logical CPUs that the application takes: one a replica, with the gateway and the encoder."""
    return config.shards * config.replicas + 2
