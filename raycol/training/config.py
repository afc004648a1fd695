"""Settings of `raycol train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from raycol.core.config import LocalPath, Locations, Names, Positive, Resources, WaitForNodes
from raycol.core.uris import base_name, join_uri, parent_uri
from raycol.storage import absolute
from raycol.training.contradictions import contradictions, without_effect
from raycol.training.objective_config import ObjectiveConfig
from raycol.training.setting_types import Attention, LearningRate, Metric, Schedule, TrainDtype

# Record of the files that `train` wrote to a model's folder.
MODEL_FILES = "training/files.txt"

# Settings that do not affect the trained model; they may change when a training is resumed.
_NOT_IN_OUTCOME = {
    "out", "storage", "prepared", "min_workers", "resources", "wait_for_nodes", "dataloader_num_workers", "save_every",
    "keep_checkpoints", "stall_timeout", "report_to", "tracking_dir",
}  # fmt: skip


class TrainConfig(ObjectiveConfig):
    """Settings of `raycol train`; contrastive training with GradCache and gathered in-batch negatives by default."""

    num_workers: Positive = 1
    """Ray Train workers. They share one batch, whose embeddings are gathered across them."""

    min_workers: Positive | None = None
    """Workers to go on with if the cluster loses others, and to start with; training stops at a checkpoint when more
    fit. By default `num_workers`."""

    resources: Resources = Field({"CPU": 1.0}, validate_default=True)
    """Resources per worker: GPU=1, or CPU=4 for four threads."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for the cluster's autoscaler if there is not enough capacity for the workers."""

    batch_size: Positive = 64
    """Queries per batch, over all workers. The other passages of the batch are each query's negatives."""

    mini_batch_size: Positive = 16
    """Texts encoded at a time: with GradCache, memory grows with it and not with the batch size."""

    mini_batch_tokens: Positive | None = None
    """Tokens encoded at a time, padding included, in place of `mini_batch_size` texts."""

    score_mini_batch_size: Positive | None = None
    """Queries scored at a time against all passages of the batch; by default `mini_batch_size`."""

    activation_tokens: Annotated[int, Field(ge=0)] = 0
    """With GradCache: tokens, padding included, whose activations are kept, so that their texts are encoded once."""

    grad_cache: bool | None = None
    """Encode every text twice instead of keeping activations, so that memory does not grow with the batch (GradCache:
    Gao et al. 2021). By default on for objective cached and losses of your own."""

    accumulate: Positive = 1
    """Batches whose gradients are averaged per step; they share no negatives."""

    epochs: Positive | None = None
    """Passes over the examples; by default 1, or the number that `max_steps` needs."""

    max_steps: Annotated[int, Field(ge=0)] = 0
    """Maximum number of steps; 0 sets no limit. With `epochs`, training stops at the earlier of the two."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the matrices of the layers and AdamW for the other weights."""

    learning_rate: LearningRate = 3e-5
    """Peak learning rate."""

    head_learning_rate: LearningRate | None = None
    """Peak learning rate of the projection; by default `learning_rate`."""

    embedding_learning_rate: LearningRate | None = None
    """Peak learning rate of the input embeddings; by default that below the lowest layer, see `layer_decay`."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each layer to the one below it (Howard and Ruder 2018)."""

    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Freeze the input embeddings and this number of layers, the lowest first; 0 trains all weights."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the steps during which the learning rate rises to its peak."""

    schedule: Schedule = "linear"
    """Learning rate after the peak: linear or cosine decay, or constant."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of matrices; biases and norms have none."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Clip the gradient to this norm."""

    dtype: TrainDtype = "float32"
    """Precision of the encoder's computation; the weights stay float32. float16 needs a GPU and scales the loss."""

    attn_implementation: Attention | None = None
    """Attention of transformers; by default its choice, sdpa for most models. flash_attention_2 needs a GPU, the
    package flash-attn and dtype bfloat16 or float16."""

    dataloader_num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes per worker that tokenize ahead; by default 2 on a GPU and 0 on a CPU, where they compete for cores."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for about a third more time."""

    compile: bool = False
    """Compile the backbone with torch.compile; pays off in long trainings on GPUs."""

    shard_weights: bool = False
    """Divide weights, gradients and optimiser state among the workers (FSDP2), for models too large for one GPU."""

    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Train low-rank adapters of this rank instead of the backbone's weights (extra `lora`); 0 trains all weights."""

    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters, divided by their rank."""

    keep_initial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the initial weights in the evaluated and final model (Wortsman et al. 2022). 0.5 often generalizes
    better to other collections than 0, which keeps the trained weights only."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Evaluate and save an exponential moving average of the weights instead of the last ones: over about
    1 / (1 - ema_decay) steps, such as 0.99. 0 averages none."""

    average_checkpoints: Annotated[int, Field(ge=2)] | None = None
    """Average the weights of this number of checkpoints into the final model: those with the best `eval_metric`, or
    the last ones if there is no evaluation."""

    report_to: Names = ()
    """Experiment trackers that get settings and metrics: tensorboard, wandb, mlflow, trackio or comet."""

    tracking_dir: LocalPath | None = None
    """Folder of the trackers' local files, on the machine of worker 0; by default `runs` next to `out`."""

    save_every: Positive = 50
    """Steps between checkpoints."""

    keep_checkpoints: Positive = 2
    """Newest checkpoints kept, in addition to the best one."""

    eval_data: Locations | None = None
    """Test collections to evaluate on before and during training: BEIR or MS MARCO folders or their URIs, hf:NAME,
    ir:NAME, or a group by name (nanobeir, ...). The model is selected by the average over them."""

    eval_split: str | None = None
    """Split of `eval_data`; by default dev, validation or the only one besides train and test."""

    eval_metric: Metric = "nDCG@10"
    """Metric that selects the model and stops early, by its name in ir-measures: nDCG@10, R@100, AP, RR@10, ..."""

    held_out: Annotated[int, Field(ge=0)] = 0
    """Hold this number of queries out of training and evaluate on them: each searches the positives of all of them."""

    eval_every: Positive = 100
    """Steps between evaluations. The final model is that of the step with the best one; the untrained model, which is
    evaluated first, is not a candidate."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations without improvement before training stops early; 0 disables early stopping."""

    stall_timeout: Positive = 1800
    """Seconds that a worker waits for the others before it fails."""

    seed: int = 0
    """Seed of new weights, the order of the examples and dropout."""

    embedding_size: Positive | None = None
    """Dimensions of a token embedding; 128 for a new ColBERT, fixed for a trained model."""

    new_projection: bool = False
    """Train a new projection even if the checkpoint has a projection or a head that raycol cannot load and drops."""

    query_length: Positive | None = None
    """Maximum tokens of a query; 32 for a new ColBERT, unchanged for a trained model."""

    document_length: Positive | None = None
    """Maximum tokens of a document; 180 for a new ColBERT, unchanged for a trained model."""

    query_expansion: bool | None = None
    """Pad queries with mask tokens that are scored too; off for a new ColBERT, unchanged for a trained model."""

    attend_to_expansion: bool | None = None
    """Let a query's other tokens attend to these mask tokens; off for a new ColBERT, unchanged for a trained model."""

    query_prefix: str | None = None
    """Marker before queries; "[Q] " for a new ColBERT, unchanged for a trained model."""

    document_prefix: str | None = None
    """Marker before documents; "[D] " for a new ColBERT, unchanged for a trained model."""

    skiplist: tuple[str, ...] | None = None
    """Words of documents that are not scored; punctuation for a new ColBERT, unchanged for a trained model."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for message in contradictions(self):
            raise ValueError(message)
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        return without_effect(self)

    @property
    def encodes_twice(self) -> bool:
        """Whether GradCache is on."""
        own_loss = not isinstance(self.objective, str)
        return self.objective == "cached" or (own_loss if self.grad_cache is None else self.grad_cache)

    @property
    def evaluates(self) -> bool:
        """Whether there is an evaluation collection."""
        return bool(self.eval_data or self.held_out)

    @property
    def first_mined_step(self) -> int | None:
        """Step from which mined negatives are used; None without `remine_every`."""
        return self.remine_every and self.remine_every * (1 + self.remine_in_background)

    @property
    def on_gpu(self) -> bool:
        """Whether workers train on GPUs."""
        return self.resources.get("GPU", 0) > 0

    @property
    def tokenizing_processes(self) -> int:
        """Processes per worker that tokenize ahead."""
        if self.dataloader_num_workers is None:
            return 2 if self.on_gpu else 0
        return self.dataloader_num_workers

    @property
    def name(self) -> str:
        """The trained model's name: the last component of `out`."""
        return base_name(self.out)

    @property
    def storage_uri(self) -> str:
        """Absolute path or URI of the training's storage."""
        return absolute(self.storage or join_uri(parent_uri(absolute(self.out)), f".{self.name}-training"))

    @property
    def tracking_folder(self) -> str:
        """Absolute path of the trackers' local files."""
        return absolute(self.tracking_dir or join_uri(parent_uri(absolute(self.out)), "runs"))

    def outcome(self) -> dict[str, Any]:
        """The settings that determine the trained model, JSON-serialisable."""
        # Workers share each batch, unless documents of other workers are not compared.
        compares_own = not self.gather_across_workers and (
            any(one.in_batch for one in self.by_source) or self.scoring == "xtr"
        )
        unused = _NOT_IN_OUTCOME | (set() if compares_own else {"num_workers"})
        # Without evaluations, the last checkpoints are averaged.
        averages_last = self.average_checkpoints and not self.evaluates
        return self.model_dump(mode="json", exclude=unused - ({"save_every"} if averages_last else set()))
