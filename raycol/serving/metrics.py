"""What a gateway counts, for Prometheus. One process, one registry: several gateways are scraped one by one."""

from __future__ import annotations

import resource
import sys

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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


def exposition() -> bytes:
    """Everything counted, in Prometheus' text format."""
    return generate_latest(REGISTRY)
