"""Settings of `raycol mine` and `raycol score`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, Location, Locations, Names, Positive
from raycol.data.corpus import OnError
from raycol.data.sources import ExampleSource
from raycol.distributed.executor import ModelWorkersConfig
from raycol.errors import InputError
from raycol.evaluation.systems import System
from raycol.mining.systems import MinedSystem, NegativeRules, check_bounds, is_system, parse_mined

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Normalization = Literal["none", "z-score", "min-max"]
INDEX = "index"
"""Name of the index among the systems."""


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
    """Folder or URI of the index to mine; or another system, as in `system`: bm25, single:MODEL, run:FILE."""

    system: Names = ()
    """Further systems to mine, as in raycol evaluate, each with settings of its own: bm25,weight=2,
    single:MODEL,relative_margin=0.05, run:FILE,to_rank=50. They search the corpus before the workers start."""

    model: Location | None = None
    """The index's encoder; by default the path that the index records."""

    version: Positive | None = None
    """Version of the index; by default the newest."""

    corpus: Location | None = None
    """Corpus with the documents' texts; by default the index, or the BEIR folder if the index stores no texts. Other
    systems search it."""

    judged: Locations = ()
    """More examples, in every layout of data: their positives are never negatives of the same query. The other splits
    of a BEIR folder count without being named."""

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

    pool: Positive | None = None
    """Eligible hits of each system that a random sample is drawn from, the best ones; by default all."""

    cross_encoder: Location | None = None
    """Cross-encoder that rejects false negatives: hits that it scores above the positive less its margin."""

    cross_encoder_margin: Margin = 0.0
    """Minimum difference between the cross-encoder's logits of the positive and of a negative."""

    max_length: Positive | None = None
    """Tokens of query and document together that the cross-encoder reads; by default the model's maximum."""

    seed: int = 0
    """Seed of random sampling; every query is sampled independently."""

    @property
    def mines_index(self) -> bool:
        """Whether `index` is an index that workers search, and not another system."""
        return not is_system(self.index)

    @property
    def systems(self) -> list[MinedSystem]:
        """The systems to mine: `index`, then those of `system`. Raises `InputError` for one that does not exist."""
        rules = NegativeRules(**{name: getattr(self, name) for name in NegativeRules.__dataclass_fields__})
        index = MinedSystem(INDEX, None, rules, self.from_rank, self.to_rank)
        if not self.mines_index:
            return parse_mined((self.index, *self.system), index)
        check_bounds(index)
        others = parse_mined(self.system, index)
        if INDEX in [other.name for other in others]:
            raise InputError(f"system {INDEX!r}: the index has this name; name the system, as in NAME=SYSTEM")
        return [index, *others]

    @property
    def searched(self) -> list[tuple[System, int]]:
        """The systems that search before the workers start, each with its number of hits."""
        return [(mined.system, mined.to_rank) for mined in self.systems if mined.system]

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            systems = self.systems
        except InputError as error:
            raise ValueError(str(error)) from None
        ranks = sum(system.to_rank - system.from_rank + 1 for system in systems)
        if ranks < self.negatives:
            raise ValueError(f"{self.negatives} negatives from {ranks} ranks; raise to_rank, or lower negatives")
        if self.pool is not None and self.pool * len(systems) < self.negatives:
            raise ValueError(f"{self.negatives} negatives from a pool of {self.pool}; raise pool, or lower negatives")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        unused = {}
        if self.cross_encoder is None:
            reason = "it applies to a cross-encoder; set cross_encoder, or leave it out"
            unused = {"cross_encoder_margin": reason, "max_length": reason}
        if self.sampling != "random":
            reason = "it applies to sampling random; set that, or leave it out"
            unused |= {"seed": reason, "pool": reason}
        if not self.mines_index:
            reason = f"it applies to an index, and {self.index} is none; leave it out"
            unused |= {"version": reason, "model": reason}
        return unused


class ScoreConfig(_JobConfig, ModelWorkersConfig):
    """Settings of `raycol score`."""

    teacher: Annotated[Locations, Field(min_length=1)]
    """Teachers to score with: cross-encoders, Qwen3-Reranker, bge-reranker-v2-gemma; folders, URIs or names on the
    hub. The scores of several are combined."""

    teacher_weights: tuple[Weight, ...] = ()
    """Weight of each teacher in the combination; by default equal weights."""

    normalize: Normalization | None = None
    """Normalization of each teacher's scores over the documents of an example; by default none for one teacher,
    z-score for several."""

    reuse: Locations = ()
    """Results of earlier jobs, whose scores are taken over if they are of the same teachers; for one teacher also
    other examples with scores. Only the missing scores are computed."""

    n_ways: Annotated[int, Field(ge=2)] = 8
    """Documents per example, the positive included; further documents are dropped."""

    max_length: Positive | None = None
    """Tokens of query and document together that a teacher reads; by default its maximum."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Dtype of the teachers; half precision is faster on a GPU, and rounds the scores."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each teacher."""
        return self.teacher_weights or (1.0,) * len(self.teacher)

    @property
    def normalization(self) -> Normalization:
        """Normalization of each teacher's scores."""
        return self.normalize or ("none" if len(self.teacher) == 1 else "z-score")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.weights) != len(self.teacher):
            raise ValueError(
                f"{len(self.weights)} teacher_weights for {len(self.teacher)} teachers; expected one each"
            )
        if repeated := next((name for name in self.teacher if self.teacher.count(name) > 1), None):
            raise ValueError(f"teacher {repeated} is named twice; name each once")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        if len(self.teacher) > 1:
            return {}
        return {"teacher_weights": "there is only one teacher; name another, or leave it out"}
