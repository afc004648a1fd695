"""Prometheus metrics of a gateway.

One registry per process. Every series carries the gateway's name as a label: a scrape of an endpoint with several
gateways reaches any one of them, and their counters must not be mixed.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

REGISTRY = CollectorRegistry()
_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

REQUESTS = Counter("raycol_requests", "HTTP requests.", ["path", "status"], registry=REGISTRY)
LATENCY = Histogram("raycol_request_seconds", "Request latency.", ["path"], buckets=_BUCKETS, registry=REGISTRY)
STAGES = Histogram(
    "raycol_stage_seconds", "Latency of a search stage.", ["stage"], buckets=_BUCKETS, registry=REGISTRY
)
IN_FLIGHT = Gauge("raycol_requests_in_flight", "Requests in flight in the gateway.", registry=REGISTRY)
REFUSED = Counter("raycol_requests_refused", "Requests rejected by admission control (429).", registry=REGISTRY)
UNAUTHORISED = Counter("raycol_requests_unauthorised", "Requests without the required key.", registry=REGISTRY)
PARTIAL = Counter("raycol_partial_answers", "Responses that lack a shard's documents.", registry=REGISTRY)
QUERIES = Counter("raycol_queries", "Queries searched.", registry=REGISTRY)
CACHED = Counter("raycol_queries_cached", "Queries whose embeddings were cached.", registry=REGISTRY)
VERSION = Gauge("raycol_index_version", "Served version.", registry=REGISTRY)
SHARD_WORK = Histogram(
    "raycol_shard_work_seconds",
    "Compute time of a step in a shard.",
    ["shard", "step"],
    buckets=_BUCKETS,
    registry=REGISTRY,
)
SHARD_WAIT = Histogram(
    "raycol_shard_wait_seconds", "Queueing time of a step in a shard.", ["shard"], buckets=_BUCKETS, registry=REGISTRY
)
SHARD_REQUESTS = Gauge("raycol_shard_requests", "Requests in flight in the replica.", ["shard"], registry=REGISTRY)
SHARD_MEMORY = Gauge("raycol_shard_memory_bytes", "Resident memory of the replica.", ["shard"], registry=REGISTRY)
SHARD_FAILURES = Counter(
    "raycol_shard_failures", "Steps that failed or timed out in a shard.", ["shard", "reason"], registry=REGISTRY
)
MEMORY = Gauge("raycol_gateway_memory_bytes", "Peak resident memory of the gateway.", registry=REGISTRY)
MEMORY.set_function(
    lambda: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
)


class _LabelledRegistry:
    """A view of the registry that adds the label `gateway` to every series."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "gateway": self._gateway}) for sample in family.samples
            ]
            yield family


def exposition(gateway: str) -> bytes:
    """All metrics in Prometheus' text format, labelled with the gateway's name."""
    return generate_latest(_LabelledRegistry(gateway))
