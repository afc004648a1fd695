"""`raycol study`: measure the cells of a recipe, each once, and summarise them.

    out/cells-<fingerprint>/         settings, and the record of every finished cell
    out/embeddings-<fingerprint>/    embeddings of the collections
    out/collections/                 their copies
    out/table.md, study.json, picture.svg

Every run writes the last three again, from the records.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from raycol.core.progress import Report, no_report
from raycol.data.collections import CollectionRef, find_collections
from raycol.distributed.executor import IN_PROCESS, Executor, choose_executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.errors import InputError
from raycol.evaluation.metrics import parse_metrics
from raycol.storage import open_store
from raycol.studies.cells import SCRATCH, Bench, Cell, CellRecord, CellSettings, CellWorker, Point
from raycol.studies.config import StudyConfig
from raycol.studies.embeddings import encode_collections
from raycol.studies.kinds import KINDS, Kind
from raycol.studies.material import POOLED, StudyCollection, copy_collection
from raycol.studies.picture import draw
from raycol.studies.recipe import Recipe, load_recipe
from raycol.studies.result import StudyResult, report_of, rows_of

REPORT = "study.json"
TABLE = "table.md"
PICTURE = "picture.svg"
# Settings that do not decide what a cell measures.
_PRESENTATION = {"out", "resamples", "confidence", "num_workers", "wait_for_nodes", "peers", "name", "model"}


def run_study(config: StudyConfig, report: Report = no_report, executor: Executor | None = None) -> StudyResult:
    """Measure the cells of a study that are not finished, and write the table, the JSON and the picture.

    Args:
        config: the settings.
        report: receives the progress.
        executor: runs encoding, cells and trainings; by default `choose_executor` chooses.

    Raises:
        InputError: a recipe, collection or model that cannot be used, or `out` has the cells of other settings.
        RaycolError: a worker failed.
    """
    recipe = load_recipe(config.name)
    if recipe.study not in KINDS:
        raise InputError(f"{config.name}: study is {recipe.study!r:.60}; expected one of {', '.join(KINDS)}")
    kind = KINDS[recipe.study]
    chosen, notes = _chosen_cells(recipe, kind, config)
    metrics = tuple(parse_metrics(recipe.metrics))
    references = [reference for name in config.data for reference in find_collections(name, config.split)]
    fingerprint = _fingerprint(config.model)
    settings = {
        **config.model_dump(mode="json", exclude=_PRESENTATION),
        **recipe.model_dump(mode="json", exclude={"baseline"}),
        "model": fingerprint,
        "peers": config.peers is not None,
    }
    config = config.model_copy(update={"out": config.out.absolute()})  # workers have another working directory
    store = open_store(config.out)
    with store.lock("running"):
        for left in config.out.glob(f"{SCRATCH}*"):  # by a killed run
            shutil.rmtree(left)
        job = PartitionedJob(store, "cells-", settings, CellRecord)
        job.refuse_others(config.out)
        job.begin()
        collections = _collections(references, recipe, config, report)
        members = [each for each in collections if each.name != POOLED]
        notes += [note for each in members for note in each.notes]
        parts = encode_collections(members, store, config, fingerprint, report, executor) if kind.embeddings else {}
        bench = Bench(store, config, metrics, {each.name: each for each in collections}, parts, executor)
        names: list[str | None] = [None] if kind.all_collections else list(bench.collections)
        cells = [Cell(one, shown, name) for name in names for one, shown in chosen]
        records = _measure(job, cells, kind, bench, report, executor)
        points = [(cell, point) for cell, record in zip(cells, records, strict=True) for point in record.points]
        points = _related(points, kind)
        report(0, None, "summarising")
        strata = {each.name: kind.strata(bench.open(each.name)) for each in members} if kind.strata else {}
        groups = {reference.name: reference.group for reference in references}
        resampling = {"seed": config.seed, "n_resamples": config.resamples, "confidence": config.confidence}
        rows = rows_of(points, kind, recipe, groups, strata, resampling)
        result = StudyResult(Path(config.name).stem, str(config.out), rows, kind.numbers, tuple(notes))
        store.write(PICTURE, draw(result.name, rows, kind, recipe))
        store.write(TABLE, result.markdown().encode())
        store.write(REPORT, report_of(result, points, recipe, config.effective()))
    return result


def _chosen_cells(
    recipe: Recipe, kind: Kind, config: StudyConfig
) -> tuple[list[tuple[CellSettings, Mapping[str, Any]]], list[str]]:
    """The settings of the cells that can run, each with those that name it, and a note on the others.

    Raises:
        InputError: the recipe has no cells, or a cell's settings are invalid.
    """
    cells = [
        (
            kind.settings.load(None, values, f"cell {number} of {config.name}"),
            {
                name: value
                for name, value in values.items()
                if name not in recipe.fixed and not isinstance(value, list | tuple | dict)
            },
        )
        for number, values in enumerate(recipe.cells())
    ]
    if kind.all_collections and not config.train_data:
        raise InputError(f"{config.name}: the study trains models; name training examples with `train_data=`")
    if not cells:
        raise InputError(f"{config.name}: the recipe has no cells; list some under `vary`, `cases` or `also`")
    left_out = sum(settings.needs_peers for settings, _ in cells) if config.peers is None else 0
    notes = [f"{left_out} cells that need `peers=` are left out"] if left_out else []
    return [each for each in cells if config.peers or not each[0].needs_peers], notes


def _fingerprint(model: str) -> str:
    """Open and check a model before workers do; return its fingerprint."""
    from raycol.models.encoder import encoder_fingerprint, load_encoder, probe_encoder

    encoder = load_encoder(model, device="cpu")
    probe_encoder(encoder, model)
    return encoder_fingerprint(encoder)


def _collections(
    references: Sequence[CollectionRef], recipe: Recipe, config: StudyConfig, report: Report
) -> list[StudyCollection]:
    """Copies of the collections, and their union if the recipe has it. Raises `InputError` for a repeated name."""
    names = [reference.name for reference in references]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"collection {repeated!r} is named twice; name each once")
    folder = config.out / "collections"
    copies = []
    for reference in references:
        report(0, None, f"reading {reference.name}")
        copies.append(copy_collection(reference, folder, config))
    if recipe.pooled and len(copies) > 1:
        members = {name: path for copy in copies for name, path in copy.members.items()}
        copies.append(StudyCollection(POOLED, members))
    return copies


def _measure(
    job: PartitionedJob[CellRecord],
    cells: Sequence[Cell],
    kind: Kind,
    bench: Bench,
    report: Report,
    executor: Executor | None,
) -> list[CellRecord]:
    """Measure the cells that are not finished; return the records of all."""
    finished = job.finished_parts(len(cells))
    if len(finished) == len(cells):
        return [finished[number] for number in range(len(cells))]
    if kind.on_workers:
        executor = executor or choose_executor(bench.config, len(cells) - len(finished))
        session = executor.session(bench.config, report)
    else:
        executor, session = IN_PROCESS, nullcontext()
    arguments = {"measure": kind.measure, "bench": bench}
    with session:
        n_workers = executor.n_workers(bench.config)
        progress = PartProgress(report, [1] * len(cells), finished, n_workers, unit="cells")
        return job.run(CellWorker, bench.config, cells, finished, arguments, "the study", executor, progress)


def _related(points: Sequence[tuple[Cell, Point]], kind: Kind) -> list[tuple[Cell, Point]]:
    """Points with the numbers that compare them with the others of their collection."""
    if kind.relate is None:
        return list(points)
    numbers: dict[int, Mapping[str, float]] = {}
    for name in dict.fromkeys(point.collection for _, point in points):
        chosen = [at for at, (_, point) in enumerate(points) if point.collection == name]
        found = kind.relate([(points[at][0].settings, points[at][1]) for at in chosen])
        numbers |= dict(zip(chosen, found, strict=True))
    return [
        (cell, point.model_copy(update={"numbers": {**point.numbers, **numbers[at]}}))
        for at, (cell, point) in enumerate(points)
    ]
