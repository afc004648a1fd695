"""What indexes take that are too large to measure here: nodes, hours, bytes and money, from measured rates.

Everything is linear in what `Model` and the measured steps say; prices and what is assumed come from the command.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clustered import DIM, MEAN_TOKENS

from raycol.index.codec.training import default_centroids, sample_tokens
from raycol.index.format.manifest import MAX_MANIFEST_BYTES
from raycol.index.write.create import partition_tokens_for
from raycol.serving.probing import probe_in_gateway
from scaling.kept import Step
from scaling.model import Model, Shape, fit

HOURS_A_MONTH = 730
# Of a node's memory, what index and processes may take.
_MEMORY_SHARE = 0.85
_CENTROIDS = tuple(1 << power for power in range(14, 23))
# Centroids as floats and as bytes, in every process that searches.
_CENTROID_BYTES = DIM * 5
# An entry of candidates that a shard sends: number, estimate, score.
_CANDIDATE_BYTES = 16
_CANDIDATES = 1024


@dataclass(frozen=True)
class Node:
    """A machine type: its price an hour, and where it is not certain to be had."""

    name: str
    vcpus: int
    memory_gib: float
    price: float
    spot: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Node:
        """NAME:VCPUS:GIB:PRICE[:SPOT]."""
        try:
            name, vcpus, memory, *prices = text.split(":")
            return cls(name, int(vcpus), float(memory), *map(float, prices))
        except (ValueError, TypeError):
            raise argparse.ArgumentTypeError(f"{text!r}; expected NAME:VCPUS:GIB:PRICE[:SPOT]") from None


@dataclass(frozen=True)
class Building:
    """What building takes."""

    tokens: float
    documents: float
    n_centroids: int
    sample_tokens: int
    bytes: float
    parts: int
    partitions: int
    manifest_bytes: float
    codebook_s: float
    encode_core_h: float
    quantise_core_h: float
    merge_core_h: float
    merge_bytes: float
    node_h: float
    hours: float
    price: float
    spot: float


@dataclass(frozen=True)
class Serving:
    """What serving takes."""

    shape: Shape
    bytes: float
    own_bytes: float
    nodes: int
    shard_ms: float
    gateway_ms: float
    search: dict[str, float]
    http_ms: float
    per_second: float
    gateways: float
    price_a_month: float
    storage_a_month: float
    candidates_bytes: float
    open_s: float


class Large:
    """The calculation, from the sizes measured and the command's options."""

    def __init__(self, sizes: Sequence[Step], options: argparse.Namespace) -> None:
        self.model: Model = fit(sizes)
        self._options = options
        self._largest = sizes[-1]
        search = self._largest["search"]
        files = search["files"]
        self._rest_bytes = (search["bytes"] - files["codes"] - files.get("list_offsets", 0)) / search["tokens"]

    def index_bytes(self, tokens: float, n_centroids: int) -> float:
        """Bytes of an index, without texts."""
        code = 2 if n_centroids <= 1 << 16 else 4
        lists = 4 * n_centroids / partition_tokens_for(int(tokens))
        return tokens * (self._rest_bytes + code + lists)

    def building(self, tokens: float, n_centroids: int | None = None) -> Building:
        """What building an index takes, with the codebook that the library chooses or another."""
        options, largest = self._options, self._largest
        sample = sample_tokens(n_centroids or default_centroids(int(tokens)), DIM)
        k = n_centroids or default_centroids(int(tokens), sample)
        built, merged, trained = largest["encode"], largest["merge"], largest["codebook"]
        quantised = built["cpu_s"]["quantise and write"] / largest["search"]["tokens"]
        encode_core_h = tokens / options.encode_rate / 3600
        quantise_core_h = tokens * quantised / 3600
        merge_core_h = tokens * merged["cpu_s"] / merged["tokens"] / 3600
        node = options.build_node
        node_h = (encode_core_h + quantise_core_h + merge_core_h) / (node.vcpus * options.cores_per_vcpu)
        partition_tokens = partition_tokens_for(int(tokens))
        partitions = math.ceil(tokens / partition_tokens)
        committed = largest["commit"]
        return Building(
            tokens=tokens,
            documents=tokens / MEAN_TOKENS,
            n_centroids=k,
            sample_tokens=sample,
            bytes=self.index_bytes(tokens, k),
            parts=math.ceil(tokens / MEAN_TOKENS / options.docs_per_part),
            partitions=partitions,
            manifest_bytes=partitions * committed["manifest_bytes"] / committed["partitions"],
            codebook_s=trained["cpu_s"] * sample / trained["sample_tokens"],
            encode_core_h=encode_core_h,
            quantise_core_h=quantise_core_h,
            merge_core_h=merge_core_h,
            merge_bytes=partition_tokens * merged["more_bytes"] / merged["tokens"],
            node_h=node_h,
            hours=node_h / options.build_nodes,
            price=node_h * node.price,
            spot=node_h * node.spot,
        )

    def serving(self, tokens: float, n_centroids: int) -> Serving:
        """What serving an index takes, with as many shards as keep each within its time."""
        options, node, model = self._options, self._options.serve_node, self.model
        partitions = math.ceil(tokens / partition_tokens_for(int(tokens)))
        shape = Shape(tokens, tokens / MEAN_TOKENS, n_centroids, partitions)
        own = self._own_bytes(n_centroids)
        held = self.index_bytes(tokens, n_centroids) + tokens * options.text_bytes
        shards = self._shards(shape)
        room = _MEMORY_SHARE * node.memory_gib * 2**30
        nodes = math.ceil((held + shards * own) / room)
        shards = nodes * math.ceil(shards / nodes)
        shape = replace(shape, shards=shards)
        http_ms, gateway_ms = model.http_ms(shape), model.gateway_ms(shape)
        cores = nodes * node.vcpus * options.cores_per_vcpu
        per_second = options.utilisation * cores / (http_ms / 1000)
        search = self._largest["search"]
        candidates = min(_CANDIDATES, math.ceil(1.5 * _CANDIDATES / shards) + 32)
        return Serving(
            shape=shape,
            bytes=held,
            own_bytes=shards * own,
            nodes=nodes,
            shard_ms=model.shard_ms(shape),
            gateway_ms=gateway_ms,
            search=model.parts(shape),
            http_ms=http_ms,
            per_second=per_second,
            gateways=per_second * gateway_ms / 1000 / options.utilisation,
            price_a_month=nodes * node.price * HOURS_A_MONTH,
            storage_a_month=held / 2**30 * options.storage_price,
            candidates_bytes=shards * candidates * _CANDIDATE_BYTES,
            # Checksums, and one pass over all tokens before the first request.
            open_s=(search["first_s"] + search["exact_cpu_ms"] / 1000) * tokens / shards / search["tokens"],
        )

    def best_centroids(self, tokens: float) -> int:
        """How many centroids would make a query cheapest."""
        return min(_CENTROIDS, key=lambda k: self.serving(tokens, k).http_ms if self._fits(k) else math.inf)

    def _fits(self, n_centroids: int) -> bool:
        of_gateway = self.model.centroid * n_centroids / 1e3
        return max(self._a_shard(n_centroids), of_gateway) < self._options.shard_ms

    def _a_shard(self, n_centroids: int) -> float:
        """What a shard takes that holds next to nothing."""
        return self.model.shard + (
            0.0 if probe_in_gateway(2, n_centroids) else self.model.centroid * n_centroids / 1e3
        )

    def _shards(self, shape: Shape) -> int:
        spread = self.model.search_ms(replace(shape, shards=0))
        if probe_in_gateway(2, shape.n_centroids):
            spread -= self.model.centroids_ms(shape)
        left = self._options.shard_ms - self._a_shard(shape.n_centroids)
        return max(1, math.ceil(spread / left)) if left > 0 else 1

    def _own_bytes(self, n_centroids: int) -> float:
        """Memory of one shard's process that is not the index."""
        told = self._largest["serve"]["shards"]
        shards = told[max(told, key=int)]["memory"]["shards"]
        before = self._largest["search"]["n_centroids"]
        return max(0.0, shards["own"] / shards["processes"] + (n_centroids - before) * _CENTROID_BYTES)


def manifest_room(building: Building) -> float:
    """The share of what a manifest may have."""
    return building.manifest_bytes / MAX_MANIFEST_BYTES
