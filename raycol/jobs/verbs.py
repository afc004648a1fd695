"""The verbs that can be jobs: their commands, settings, inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycol.core.config import Config
from raycol.data.sources import ExampleSource
from raycol.evaluation.config import EvaluateConfig
from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.mining.systems import is_system
from raycol.sweeps.config import SweepConfig
from raycol.training.config import TrainConfig


@dataclass(frozen=True)
class Verb:
    """A verb, and which of its settings hold paths.

    Args:
        summary: what the job does.
        config: class of its settings.
        command: words of its command, `raycol WORDS`.
        positional: settings that its command takes as arguments, not as options.
        writes: settings that hold output paths.
        reads: settings that hold input paths.
        collections: settings that hold test collections: input paths, or names of benchmarks.
        models: settings that name a checkpoint: a folder, or a name on the hub.
        concurrent: whether several jobs of the verb may write to one URI at once; each then builds on the others'.
    """

    summary: str
    config: type[Config]
    command: tuple[str, ...]
    positional: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    concurrent: bool = False

    def options(self) -> list[str]:
        """Settings that the command takes as options."""
        return [name for name in self.config.model_fields if name not in self.positional]


VERBS = {
    "train": Verb(
        "Train an encoder.",
        TrainConfig,
        ("train",),
        writes=("out", "storage", "prepared", "tracking_dir"),
        reads=("data",),
        models=("model", "guide"),
        collections=("eval_data",),
    ),
    "sweep": Verb(
        "Train with sampled settings and keep the best model.",
        SweepConfig,
        ("sweep",),
        positional=("recipe",),
        writes=("out",),
        reads=("recipe",),
    ),
    "mine": Verb(
        "Find hard negatives.",
        MineConfig,
        ("mine",),
        positional=("index", "data"),
        writes=("out",),
        reads=("index", "data", "corpus", "judged"),
        models=("model", "cross_encoder"),
    ),
    "score": Verb(
        "Score training examples with teachers.",
        ScoreConfig,
        ("score",),
        positional=("data",),
        writes=("out",),
        reads=("data", "reuse"),
        models=("teacher",),
    ),
    "index": Verb(
        "Build an index.",
        IndexConfig,
        ("index", "build"),
        positional=("corpus",),
        writes=("out",),
        reads=("corpus",),
        models=("model",),
    ),
    "append": Verb(
        "Add a corpus to an index.",
        AppendConfig,
        ("index", "append"),
        positional=("index", "corpus"),
        writes=("index",),
        reads=("corpus",),
        models=("model",),
        concurrent=True,
    ),
    "compact": Verb(
        "Merge an index's small partitions and drop its deleted documents.",
        CompactConfig,
        ("index", "compact"),
        positional=("index",),
        writes=("index",),
    ),
    "evaluate": Verb(
        "Evaluate systems on test collections.",
        EvaluateConfig,
        ("evaluate",),
        positional=("data",),
        writes=("out",),
        reads=("index",),
        collections=("data",),
        models=("model",),
    ),
}


def uris_of(config: Config, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield each path and URI of the named settings, with the setting's name. An `ExampleSource` holds several.

    A system in place of an index, such as bm25, is none.
    """
    for name in names:
        for uri in _uris(getattr(config, name)):
            yield name, uri


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        for item in value:
            yield from _uris(item)
    elif isinstance(value, ExampleSource):
        yield from (uri for uri in (value.path, value.queries, value.documents) if uri)
    elif isinstance(value, str | Path) and not is_system(value):
        yield str(value)
