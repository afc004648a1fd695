"""What studies do: for each key of a recipe's `study`, its cells' settings, how one is measured, and what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycol.studies import determinism, first_stage, pooling, training
from raycol.studies.cells import CellSettings, Measure, OpenCollection, Point


@dataclass(frozen=True)
class Kind:
    """A kind of study.

    Args:
        settings: class of a cell's settings.
        measure: measures a cell.
        x: number on the horizontal axis of the picture; None draws a bar or a point for each row.
        y: number that a bar shows; None draws the first metric.
        line: setting whose values a line connects.
        numbers: columns of the table besides the metrics.
        on_workers: whether cells run on workers, several at a time; otherwise one after the other in this process,
            which may use Ray itself, and where times are not disturbed.
        embeddings: whether cells need the collections' embeddings.
        all_collections: whether a cell measures all collections.
        repeated: setting over whose values rows are averaged.
        strata: ids of a collection's queries in groups that are also reported separately.
        relate: numbers of each point by comparison with the others of its collection.
    """

    settings: type[CellSettings]
    measure: Measure
    x: str | None = None
    y: str | None = None
    line: str | None = None
    numbers: tuple[str, ...] = ()
    on_workers: bool = False
    embeddings: bool = True
    all_collections: bool = False
    repeated: str | None = None
    strata: Callable[[OpenCollection], Mapping[str, Sequence[str]]] | None = None
    relate: Callable[[Sequence[tuple[Any, Point]]], Sequence[Mapping[str, float]]] | None = None


KINDS = {
    "pooling": Kind(
        pooling.PoolingSettings,
        pooling.measure,
        x="bytes/document",
        line="pool_factor",
        numbers=("bytes/document", "tokens/document"),
        on_workers=True,
        strata=pooling.strata,
    ),
    "first-stage": Kind(
        first_stage.FirstStageSettings,
        first_stage.measure,
        x="p50 ms",
        line="budget",
        numbers=("p50 ms", "p95 ms", "p99 ms"),
    ),
    "determinism": Kind(
        determinism.DeterminismSettings,
        determinism.measure,
        y="identical lists",
        numbers=("identical lists", "overlap@10", "same bytes"),
        relate=determinism.relate,
    ),
    "training": Kind(
        training.TrainingSettings,
        training.measure,
        numbers=("steps", "seconds", "lowest", "highest"),
        embeddings=False,
        all_collections=True,
        repeated="seed",
    ),
}
