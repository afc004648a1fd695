"""What a gateway counts, for Prometheus.

One process, one registry. All series carry the gateway's name: whoever asks an endpoint of several gateways is
answered by any of them, and what one has counted must not look like what the others have.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

REGISTRY = CollectorRegistry()
_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

REQUESTS = Counter("raycol_requests", "Requests answered.", ["path", "status"], registry=REGISTRY)
LATENCY = Histogram("raycol_request_seconds", "Time of a request.", ["path"], buckets=_BUCKETS, registry=REGISTRY)
STAGES = Histogram(
    "raycol_stage_seconds", "Time of a stage of searching.", ["stage"], buckets=_BUCKETS, registry=REGISTRY
)
IN_FLIGHT = Gauge("raycol_requests_in_flight", "Requests that the gateway works on.", registry=REGISTRY)
REFUSED = Counter("raycol_requests_refused", "Requests refused at once: too many at work.", registry=REGISTRY)
UNAUTHORISED = Counter("raycol_requests_unauthorised", "Requests without the key they need.", registry=REGISTRY)
PARTIAL = Counter("raycol_partial_answers", "Answers that lack a shard's documents.", registry=REGISTRY)
QUERIES = Counter("raycol_queries", "Queries searched.", registry=REGISTRY)
CACHED = Counter("raycol_queries_cached", "Queries whose embeddings were known.", registry=REGISTRY)
VERSION = Gauge("raycol_index_version", "Version that is served.", registry=REGISTRY)
SHARD_WORK = Histogram(
    "raycol_shard_work_seconds", "Time that a shard computes.", ["shard", "step"], buckets=_BUCKETS, registry=REGISTRY
)
SHARD_WAIT = Histogram(
    "raycol_shard_wait_seconds", "Time that a shard's work waits.", ["shard"], buckets=_BUCKETS, registry=REGISTRY
)
SHARD_AT_HAND = Gauge("raycol_shard_requests", "Requests at hand in the replica.", ["shard"], registry=REGISTRY)
SHARD_MEMORY = Gauge("raycol_shard_memory_bytes", "Resident memory of the replica.", ["shard"], registry=REGISTRY)
SHARD_FAILURES = Counter(
    "raycol_shard_failures", "Steps that a shard did not answer.", ["shard", "reason"], registry=REGISTRY
)
MEMORY = Gauge("raycol_gateway_memory_bytes", "Peak resident memory of the gateway.", registry=REGISTRY)
MEMORY.set_function(
    lambda: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
)


class _Named:
    """The registry, as `generate_latest` asks for it, with one label more."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "gateway": self._gateway}) for sample in family.samples
            ]
            yield family


def exposition(gateway: str) -> bytes:
    """Everything counted, in Prometheus' text format, as of a gateway of this name."""
    return generate_latest(_Named(gateway))
