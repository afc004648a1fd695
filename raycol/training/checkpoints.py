"""Checkpoints of a training in a store: a folder of files, and a manifest that commits it.

    checkpoints/00000050-<hash>/   weights, optimiser, ... (see state.py)
    checkpoints/00000050.json      manifest: the files with their checksums, and the metrics of that step

The manifest is written last, after an fsync of all files. Resuming verifies all checksums and falls back to the newest
intact checkpoint. Only rank 0 writes.

    average.json                   the checkpoints whose mean is the final model, if that is a mean
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.storage import Store, StoredFolder, save_folder
from raycol.storage.checked_files import seal, unseal

log = logging.getLogger(__name__)

AVERAGE_OF = "average.json"
_FOLDER = "checkpoints"
_MAX_MANIFEST_BYTES = 1 << 20


class Checkpoint(StoredFolder):
    """The state after a step, and the metrics of its evaluation (empty if there was none)."""

    step: int
    metrics: dict[str, float]

    @property
    def steps(self) -> tuple[int, ...]:
        """The step, as a tuple."""
        return (self.step,)


class CheckpointAverage(BaseModel):
    """Steps of the checkpoints that are averaged, and the metrics of their mean (empty if it was not evaluated)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[int, ...]
    metrics: dict[str, float]

    @property
    def step(self) -> int:
        """The step of the best checkpoint, or of the newest one if none was evaluated."""
        return self.steps[0]


Exported = Checkpoint | CheckpointAverage


def list_checkpoints(store: Store) -> list[Checkpoint]:
    """All checkpoints with a readable manifest and files of the right sizes, oldest first; warns of damaged ones."""
    checkpoints = []
    for name in store.names(_FOLDER):
        if not name.endswith(".json"):
            continue
        location = store.location(f"{_FOLDER}/{name}")
        try:
            checkpoint = Checkpoint.model_validate_json(unseal(store.read(f"{_FOLDER}/{name}", _MAX_MANIFEST_BYTES)))
            store.check_lengths({checkpoint.folder: checkpoint.files})
        except FileNotFoundError:  # pruned concurrently
            continue
        except (OSError, ValueError, IndexCorruptError) as error:
            log.warning("%s: damaged checkpoint ignored (%s)", location, str(error).splitlines()[0])
            continue
        checkpoints.append(checkpoint)
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def _intact(store: Store, candidates: Iterable[Checkpoint]) -> Iterator[Checkpoint]:
    """The checkpoints whose checksums match; warns of the damaged ones."""
    for checkpoint in candidates:
        try:
            store.checked(checkpoint.folder, checkpoint.files)
        except IndexCorruptError as error:
            log.warning("%s: the checkpoint of step %d is damaged, falling back (%s)", store, checkpoint.step, error)
            continue
        yield checkpoint


def first_intact(store: Store, candidates: Iterable[Checkpoint]) -> Checkpoint | None:
    """The first checkpoint whose checksums match; warns of the damaged ones before it."""
    return next(_intact(store, candidates), None)


def newest_intact(store: Store) -> Checkpoint | None:
    """The newest checkpoint whose checksums match; warns of newer, damaged ones."""
    return first_intact(store, reversed(list_checkpoints(store)))


def rank_by_metric(checkpoints: Iterable[Checkpoint], metric: str) -> list[Checkpoint]:
    """The evaluated checkpoints by descending metric; ties by ascending step."""
    evaluated = [checkpoint for checkpoint in checkpoints if metric in checkpoint.metrics]
    return sorted(evaluated, key=lambda checkpoint: (-checkpoint.metrics[metric], checkpoint.step))


def best_checkpoint(checkpoints: Iterable[Checkpoint], metric: str) -> Checkpoint | None:
    """The checkpoint with the highest metric, the earliest one on ties; None if none was evaluated."""
    return next(iter(rank_by_metric(checkpoints, metric)), None)


def checkpoints_to_average(store: Store, n: int, metric: str) -> list[Checkpoint]:
    """The `n` intact checkpoints with the highest metric, or the newest ones if none was evaluated."""
    checkpoints = list_checkpoints(store)
    return list(islice(_intact(store, rank_by_metric(checkpoints, metric) or reversed(checkpoints)), n))


def save_average(store: Store, average: CheckpointAverage) -> None:
    """Record which checkpoints the final model is the mean of."""
    with writing(store):
        store.write(AVERAGE_OF, seal(average.model_dump_json().encode()))


def open_average(store: Store) -> tuple[CheckpointAverage, list[Checkpoint]] | None:
    """The record of an average and its checkpoints; None if there is none, or a checkpoint is damaged."""
    try:
        average = CheckpointAverage.model_validate_json(unseal(store.read(AVERAGE_OF, _MAX_MANIFEST_BYTES)))
    except (FileNotFoundError, ValueError, IndexCorruptError):
        return None
    by_step = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(store)}
    checkpoints = list(_intact(store, (by_step[step] for step in average.steps if step in by_step)))
    return (average, checkpoints) if len(checkpoints) == len(average.steps) else None


def save_checkpoint(store: Store, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> Checkpoint:
    """Write a checkpoint's files to a workspace with `write` and commit them atomically."""
    with writing(store), store.workspace(step) as workspace:
        write(workspace)
        folder = save_folder(store, workspace, _FOLDER, step)
        checkpoint = Checkpoint(step=step, folder=folder.folder, files=folder.files, metrics=metrics)
        store.write(f"{_FOLDER}/{step:08d}.json", seal(checkpoint.model_dump_json().encode()))
    return checkpoint


def prune(store: Store, keep: int, metric: str, n_best: int = 1) -> None:
    """Remove all checkpoints but the `keep` newest and the best, manifests first, and the files of killed writers.

    If none was evaluated, the `n_best` newest are kept instead of the best.
    """
    checkpoints = list_checkpoints(store)
    best = rank_by_metric(checkpoints, metric)[:n_best] or checkpoints[-n_best:]
    kept_steps = {checkpoint.step for checkpoint in (*checkpoints[-keep:], *best)}
    with writing(store):
        for checkpoint in checkpoints:
            if checkpoint.step not in kept_steps:
                store.remove(f"{_FOLDER}/{checkpoint.step:08d}.json")
                store.remove(checkpoint.folder)
        committed = {checkpoint.folder for checkpoint in checkpoints}
        for name in store.names(_FOLDER):
            step = name.partition("-")[0]
            referenced = name.endswith(".json") or f"{_FOLDER}/{name}" in committed
            if checkpoints and not referenced and step.isdigit() and int(step) <= checkpoints[-1].step:
                store.remove(f"{_FOLDER}/{name}")
        store.remove_unfinished()


class AsyncCheckpointer:
    """Saves checkpoints in a background thread, one at a time; see `prune`."""

    def __init__(self, store: Store, keep: int, metric: str, n_best: int = 1) -> None:
        self._store, self._kept = store, (keep, metric, n_best)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Start saving, after waiting for the previous save and raising its error, if any."""
        self.wait()
        self._pending = self._thread.submit(self._save, step, metrics, write)

    def _save(self, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        try:
            save_checkpoint(self._store, step, metrics, write)
            prune(self._store, *self._kept)
        except OSError as error:
            raise RaycolError(f"{self._store}: the checkpoint of step {step} cannot be saved ({error})") from error

    def wait(self) -> None:
        """Wait for the pending save and raise its error, if any."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Stop the thread after the pending save."""
        self._thread.shutdown()
