"""Settings of `raycol mine` and `raycol score`."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, Location, Positive
from raycol.data.corpus import OnError
from raycol.data.sources import ExampleSource
from raycol.distributed.executor import WorkersConfig

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class _JobConfig(Config):
    """What goes in, and where the results go."""

    data: Location
    """Training examples: a BEIR folder, a file or folder of examples, a glob or URI of these, or hf:NAME."""

    out: Location
    """Folder or URI for the results. It must not exist yet; what was interrupted there is continued."""

    split: str | None = None
    """Of a BEIR folder: which qrels/<split>.tsv (train by default). Of a Hugging Face dataset: which split."""

    subset: str | None = None
    """Which subset of a dataset of the Hugging Face hub."""

    short: Literal["skip", "keep"] = "skip"
    """What to do with an example of fewer documents than asked for: leave it out, or keep it if it has two."""

    batch_size: Positive = 32
    """Texts, or pairs of them, that a model takes at once."""

    queries_per_part: Positive = 256
    """Queries a worker takes at once, and a file holds: the unit of what a crash can cost."""

    on_error: OnError = "fail"
    """What to do with a record that cannot be used: fail, or skip it and list it in the report."""

    @property
    def source(self) -> ExampleSource:
        """Where the examples are."""
        return ExampleSource(path=self.data, split=self.split, subset=self.subset)


class MineConfig(_JobConfig, WorkersConfig):
    """Settings of `raycol mine`."""

    index: Location
    """Folder or URI of the index that negatives come from."""

    model: Location | None = None
    """Where the index's encoder is now; by default where the index remembers it."""

    version: Positive | None = None
    """Version of the index; by default the newest."""

    corpus: Location | None = None
    """Where the documents' texts are; by default in the index, or in the BEIR folder where the index has none."""

    from_rank: Positive = 1
    """First rank that a negative may have among the index's hits."""

    to_rank: Positive = 100
    """Last rank that a negative may have."""

    margin: Margin | None = None
    """How far below the positive's score a negative's must be."""

    relative_margin: Annotated[float, Field(ge=0, le=1)] | None = None
    """The same as a share of the positive's score: 0.01 keeps what has at most 99 % of it."""

    max_score: Score | None = None
    """The highest score a negative may have."""

    min_score: Score | None = None
    """The lowest score a negative may have."""

    negatives: Positive = 7
    """Negatives a query."""

    sampling: Literal["top", "random"] = "top"
    """Take the best scored of those that may be taken, or any of them."""

    cross_encoder: Location | None = None
    """A cross-encoder that leaves false negatives out: those it scores above the positive less its margin."""

    cross_encoder_margin: Margin = 0.0
    """How far below the positive's logit a negative's must be, by the cross-encoder."""

    max_length: Positive | None = None
    """Tokens of query and document together that the cross-encoder reads; by default all it takes."""

    seed: int = 0
    """Seeds random sampling, for each query by itself."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ranks = self.to_rank - self.from_rank + 1
        if ranks < 1:
            raise ValueError(f"from_rank is {self.from_rank} and to_rank {self.to_rank}: no rank is between them")
        if ranks < self.negatives:
            raise ValueError(f"{self.negatives} negatives of {ranks} ranks; raise to_rank, or ask for fewer negatives")
        low, high = (-math.inf if self.min_score is None else self.min_score, self.max_score)
        if high is not None and low > high:
            raise ValueError(f"min_score is {low:g} and max_score {high:g}: no score is between them")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        found = {}
        if self.cross_encoder is None:
            reason = "it is for a cross-encoder; name one with cross_encoder, or leave it out"
            found = {"cross_encoder_margin": reason, "max_length": reason}
        if self.sampling != "random":
            found["seed"] = "it is for the sampling random; choose that, or leave it out"
        return found


class ScoreConfig(_JobConfig, WorkersConfig):
    """Settings of `raycol score`."""

    teacher: Location
    """Cross-encoder that scores: a folder, a URI or a name on the hub."""

    n_ways: Annotated[int, Field(ge=2)] = 8
    """Documents an example, the positive among them; those beyond are left out."""

    max_length: Positive | None = None
    """Tokens of query and document together that the teacher reads; by default all it takes."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What the teacher computes in; half precision is quicker on a GPU, and rounds the scores."""
