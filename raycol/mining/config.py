"""Settings of `raycol mine` and `raycol score`."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, Location, Positive
from raycol.data.corpus import OnError
from raycol.data.sources import ExampleSource
from raycol.distributed.executor import ModelWorkersConfig

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class _JobConfig(Config):
    """Settings of both jobs."""

    data: Location
    """Training examples: a BEIR folder, a file or folder of examples, a glob or URI of these, or hf:NAME."""

    out: Location
    """Folder or URI of the results. It must not exist; an interrupted run of the same command is resumed."""

    split: str | None = None
    """Split to read: qrels/<split>.tsv of a BEIR folder (default: train), or a split of a Hugging Face dataset."""

    subset: str | None = None
    """Subset of a Hugging Face dataset."""

    short: Literal["skip", "keep"] = "skip"
    """Examples with too few documents: skip them, or keep those with at least two."""

    batch_size: Positive = 32
    """Texts, or pairs of texts, per forward pass of a model."""

    queries_per_part: Positive = 256
    """Queries per part: a worker processes a part at a time, and a crash loses at most the parts in progress."""

    on_error: OnError = "fail"
    """Unusable records: fail, or skip them and list them in the report."""

    @property
    def source(self) -> ExampleSource:
        """Source of the examples."""
        return ExampleSource(path=self.data, split=self.split, subset=self.subset)


class MineConfig(_JobConfig, ModelWorkersConfig):
    """Settings of `raycol mine`."""

    index: Location
    """Folder or URI of the index to mine."""

    model: Location | None = None
    """The index's encoder; by default the path that the index records."""

    version: Positive | None = None
    """Version of the index; by default the newest."""

    corpus: Location | None = None
    """Corpus with the documents' texts; by default the index, or the BEIR folder if the index stores no texts."""

    from_rank: Positive = 1
    """First rank of the hits that may become negatives."""

    to_rank: Positive = 100
    """Last rank of the hits that may become negatives."""

    margin: Margin | None = None
    """Minimum difference between the positive's score and a negative's."""

    relative_margin: Annotated[float, Field(ge=0, le=1)] | None = None
    """Minimum difference as a share of the positive's score: 0.01 allows negatives up to 99 % of it."""

    max_score: Score | None = None
    """Maximum score of a negative."""

    min_score: Score | None = None
    """Minimum score of a negative."""

    negatives: Positive = 7
    """Negatives per query."""

    sampling: Literal["top", "random"] = "top"
    """Which eligible hits to take: the best ones, or a random sample."""

    cross_encoder: Location | None = None
    """Cross-encoder that rejects false negatives: hits that it scores above the positive less its margin."""

    cross_encoder_margin: Margin = 0.0
    """Minimum difference between the cross-encoder's logits of the positive and of a negative."""

    max_length: Positive | None = None
    """Tokens of query and document together that the cross-encoder reads; by default the model's maximum."""

    seed: int = 0
    """Seed of random sampling; every query is sampled independently."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ranks = self.to_rank - self.from_rank + 1
        if ranks < 1:
            raise ValueError(
                f"from_rank is {self.from_rank} and to_rank {self.to_rank}; expected from_rank <= to_rank"
            )
        if ranks < self.negatives:
            raise ValueError(f"{self.negatives} negatives from {ranks} ranks; raise to_rank, or lower negatives")
        low, high = (-math.inf if self.min_score is None else self.min_score, self.max_score)
        if high is not None and low > high:
            raise ValueError(f"min_score {low:g}, max_score {high:g}; expected min_score <= max_score")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        unused = {}
        if self.cross_encoder is None:
            reason = "it applies to a cross-encoder; set cross_encoder, or leave it out"
            unused = {"cross_encoder_margin": reason, "max_length": reason}
        if self.sampling != "random":
            unused["seed"] = "it applies to sampling random; set that, or leave it out"
        return unused


class ScoreConfig(_JobConfig, ModelWorkersConfig):
    """Settings of `raycol score`."""

    teacher: Location
    """Cross-encoder to score with: a folder, a URI or a name on the hub."""

    n_ways: Annotated[int, Field(ge=2)] = 8
    """Documents per example, the positive included; further documents are dropped."""

    max_length: Positive | None = None
    """Tokens of query and document together that the teacher reads; by default the model's maximum."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Dtype of the teacher; half precision is faster on a GPU, and rounds the scores."""
