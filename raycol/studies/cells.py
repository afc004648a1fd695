"""The cells of a study: what is measured with some settings, on a collection, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from raycol.core.config import Config
from raycol.distributed.executor import Executor
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker
from raycol.evaluation.metrics import parse_metrics, score_queries
from raycol.evaluation.top_hits import Hits
from raycol.indexing.workers import device_of
from raycol.storage import Store, StoredFolder
from raycol.studies.config import StudyConfig
from raycol.studies.embeddings import Embeddings, EncodedPart
from raycol.studies.material import StudyCollection, Topics
from raycol.studies.recipe import label_of

SCRATCH = ".scratch-"
"""Prefix of a cell's temporary folder in the folder of the study."""


class CellSettings(Config):
    """Settings of a cell; a study has a subclass."""

    @property
    def needs_peers(self) -> bool:
        """Whether the cell runs in the peers' Python."""
        return False


@dataclass(frozen=True)
class Cell:
    """A cell: settings, and the collection that it measures; None for all of them.

    `shown` are the settings that name it.
    """

    settings: CellSettings
    shown: Mapping[str, Any]
    collection: str | None

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.collection}: {label_of(self.shown)}" if self.collection else label_of(self.shown)


class Point(BaseModel):
    """One point of a cell.

    Args:
        collection: name of the collection.
        settings: those that distinguish the points of a cell, such as a budget.
        per_query: values by metric and query id.
        numbers: bytes, seconds and similar, one value each.
        series: a number for each query, such as milliseconds.
        hits: ids of the best documents of each query.
        digest: hash of the index's bytes.
        versions: of engines.
    """

    collection: str
    settings: dict[str, Any] = {}
    per_query: dict[str, dict[str, float]] = {}
    numbers: dict[str, float] = {}
    series: dict[str, list[float]] = {}
    hits: list[list[str]] = []
    digest: str | None = None
    versions: dict[str, str] = {}


class CellRecord(PartRecord):
    """A finished cell."""

    points: list[Point]

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """Nothing besides the record."""
        return []


@dataclass(frozen=True)
class OpenCollection:
    """A collection with its topics and embeddings.

    Args:
        source: its documents.
        topics: queries and judgements.
        embeddings: of its documents and queries.
        metrics: names.
    """

    source: StudyCollection
    topics: Topics
    embeddings: Embeddings
    metrics: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return self.source.name

    @property
    def margin(self) -> int:
        """Most documents that do not count as hits of a query: as many hits more are needed."""
        return max(map(len, self.topics.excluded.values()), default=0)

    def score(self, hits: Sequence[Hits]) -> dict[str, dict[str, float]]:
        """Return each metric by query id."""
        return score_queries(self.topics.qrels, self.topics.run(hits), parse_metrics(self.metrics))


@dataclass
class Bench:
    """What cells work with; Ray passes it to the workers.

    Args:
        store: of the study.
        config: its settings.
        metrics: names of metrics.
        collections: by name.
        parts: embeddings of the collections, by name; empty if the study needs none.
        executor: runs trainings; by default Ray.
    """

    store: Store
    config: StudyConfig
    metrics: tuple[str, ...]
    collections: Mapping[str, StudyCollection]
    parts: Mapping[str, Sequence[EncodedPart]] = field(default_factory=dict)
    executor: Executor | None = None
    _opened: OpenCollection | None = None

    def open(self, name: str | None) -> OpenCollection:
        """Open a collection, which stays open until another one is."""
        if self._opened is None or self._opened.name != name:
            source = self.collections[str(name)]
            embeddings = Embeddings(source, self.store, self.parts)
            self._opened = OpenCollection(source, source.topics(), embeddings, self.metrics)
        return self._opened


Measure = Callable[[Any, str | None, Bench], list[Point]]
"""Measures a cell: its settings, and the name of its collection, None for all."""


class CellWorker(PartWorker[Cell, CellRecord]):
    """Measures cells.

    Args:
        job: the job.
        measure: measures a cell of the study.
        bench: what it works with.
    """

    def __init__(self, job: PartitionedJob[CellRecord], measure: Measure, bench: Bench) -> None:
        super().__init__(job)
        self.measure, self.bench = measure, bench

    def open(self) -> None:
        """Limit torch to one thread."""
        device_of(on_gpu=False)

    def describe(self, number: int, input_: Cell) -> str:
        """Settings and collection."""
        return f"cell {number} ({input_.label})"

    def compute(self, number: int, input_: Cell) -> CellRecord:
        """Measure a cell."""
        return CellRecord(points=self.measure(input_.settings, input_.collection, self.bench))
