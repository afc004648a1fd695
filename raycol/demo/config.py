"""Settings of `raycol demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, LocalPath, Positive


class DemoConfig(Config):
    """Settings of `raycol demo`: from a bare backbone to a running endpoint."""

    corpus: LocalPath | None = None
    """BEIR folder to use in place of this machine's docstrings."""

    out: LocalPath = Path("raycol-demo")
    """Folder for the data, the model and the index. Replaces an earlier demo's."""

    documents: Annotated[int, Field(ge=100)] = 2000
    """Number of docstrings."""

    queries: Positive = 250
    """Maximum number of held-out queries to evaluate with."""

    steps: Positive = 20
    """Training steps."""

    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    """Pairs per training step, over both workers."""

    train_split: str = "train"
    """With a corpus: the split to train on. Without that split, titles and texts are the pairs."""

    test_split: str = "test"
    """With a corpus: the split to evaluate on."""

    shards: Annotated[int, Field(ge=2)] = 2
    """Shards to serve the index over."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the endpoint on 127.0.0.1; 0 picks a free one."""

    keep_serving: bool = False
    """Keep the endpoint running at the end, until interrupted."""

    seed: int = 0
    """Seed for the choice of docstrings, training and the codebook."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        if self.corpus is None:
            return dict.fromkeys(
                ("train_split", "test_split"), "docstrings have no splits; set corpus too, or leave it out"
            )
        return {"documents": "the demo uses the whole corpus; leave it out"}
