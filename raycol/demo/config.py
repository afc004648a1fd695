"""Settings of `raycol demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, LocalPath, Positive


class DemoConfig(Config):
    """Settings of `raycol demo`: the whole path, from a bare backbone to an endpoint that answers."""

    corpus: LocalPath | None = None
    """BEIR folder to use in place of this machine's docstrings."""

    out: LocalPath = Path("raycol-demo")
    """Folder for the data, the model and the index. An earlier demo's is replaced."""

    documents: Annotated[int, Field(ge=100)] = 2000
    """Docstrings to take."""

    queries: Positive = 250
    """Held-out queries to evaluate with, at most."""

    steps: Positive = 20
    """Training steps."""

    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    """Pairs in a training step, over both workers."""

    train_split: str = "train"
    """With --corpus: the split to train on. Where the folder has none, titles and texts are the pairs."""

    test_split: str = "test"
    """With --corpus: the split to evaluate on."""

    shards: Annotated[int, Field(ge=2)] = 2
    """Shards to serve the index over."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the endpoint on 127.0.0.1; 0 takes a free one."""

    keep_serving: bool = False
    """Leave the endpoint up at the end, until interrupted."""

    seed: int = 0
    """Seeds the choice of docstrings, training and the codebook."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        if self.corpus is None:
            return dict.fromkeys(
                ("train_split", "test_split"), "docstrings have no splits; give corpus too, or leave it out"
            )
        return {"documents": "all of the corpus is taken; leave it out"}
