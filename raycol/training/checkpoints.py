"""Checkpoints of one training in a store: a folder of files, and a record that commits it.

    checkpoints/00000050-<hash>/   weights, optimiser, ... (see state.py)
    checkpoints/00000050.json      the files with their checksums, and the evaluation of that step

A record is written last, once all that it names is flushed to the disk. Bytes may change there all the same, so they
are compared with their checksums when a training goes on from them: it falls back to the newest checkpoint that is
whole. Only the leading worker writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.storage import Files, Store
from raycol.storage.checked_files import content_name, describe_file, fsync_tree, seal, unseal
from raycol.storage.store import UNFINISHED

log = logging.getLogger(__name__)

_FOLDER = "checkpoints"
_MAX_RECORD_BYTES = 1 << 20


class Folder(BaseModel):
    """A folder of the store and its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    files: Files

    def open(self, store: Store) -> Path:
        """A local folder with these files, every byte of which is as it was written.

        Raises:
            RaycolError: a file is missing or damaged.
        """
        try:
            return store.checked(self.folder, self.files)
        except IndexCorruptError as error:
            raise RaycolError(
                f"{store}: what this training keeps there is damaged ({error}); remove it, and train again"
            ) from error


class Saved(Folder):
    """A checkpoint: after which step, and what was measured there."""

    step: int
    metrics: dict[str, float]


def publish(store: Store, workspace: Path, parent: str, base: int = 0) -> Folder:
    """Put the files of a workspace into a folder of the store that is named after them."""
    files = {path.name: describe_file(path) for path in sorted(workspace.iterdir())}
    fsync_tree(workspace)
    name = f"{parent}/{content_name(base, files)}"
    store.publish(workspace, name, files)
    return Folder(folder=name, files=files)


def list_checkpoints(store: Store) -> list[Saved]:
    """All checkpoints whose records can be read and whose files are as long as they say, oldest first."""
    found = []
    for name in store.names(_FOLDER):
        if not name.endswith(".json"):
            continue
        place = store.location(f"{_FOLDER}/{name}")
        try:
            saved = Saved.model_validate_json(unseal(store.read(f"{_FOLDER}/{name}", _MAX_RECORD_BYTES)))
            store.check_lengths(saved.folder, saved.files)
        except FileNotFoundError:  # pruned meanwhile
            continue
        except (OSError, ValueError, IndexCorruptError) as error:
            log.warning("%s: a damaged checkpoint, left out (%s)", place, str(error).splitlines()[0])
            continue
        found.append(saved)
    return sorted(found, key=lambda saved: saved.step)


def first_whole(store: Store, wanted: Iterable[Saved]) -> Saved | None:
    """The first checkpoint every byte of which is as it was written; warns of those before it."""
    for saved in wanted:
        try:
            store.checked(saved.folder, saved.files)
        except IndexCorruptError as error:
            log.warning("%s: the checkpoint of step %d is damaged, falling back (%s)", store, saved.step, error)
            continue
        return saved
    return None


def newest_whole(store: Store) -> Saved | None:
    """The newest checkpoint that is whole; warns of newer ones that are not."""
    return first_whole(store, reversed(list_checkpoints(store)))


def by_metric(found: Iterable[Saved], metric: str) -> list[Saved]:
    """The checkpoints that were measured, the highest metric first, and of equal ones the earliest."""
    measured = [saved for saved in found if metric in saved.metrics]
    return sorted(measured, key=lambda saved: (-saved.metrics[metric], saved.step))


def best_of(found: Iterable[Saved], metric: str) -> Saved | None:
    """The checkpoint of the highest metric, the earliest of equal ones; None where none was measured."""
    return next(iter(by_metric(found, metric)), None)


def save_checkpoint(store: Store, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> Saved:
    """Write a checkpoint's files to a workspace and publish them, whole or not at all."""
    with writing(store), store.workspace(step) as workspace:
        write(workspace)
        folder = publish(store, workspace, _FOLDER, step)
        saved = Saved(step=step, folder=folder.folder, files=folder.files, metrics=metrics)
        store.write(f"{_FOLDER}/{step:08d}.json", seal(saved.model_dump_json().encode()))
    return saved


def prune(store: Store, keep: int, metric: str) -> None:
    """Remove all checkpoints but the newest and the best one, records first, and what a killed writer left."""
    found = list_checkpoints(store)
    kept = {saved.step for saved in found[-keep:]}
    if best := best_of(found, metric):
        kept.add(best.step)
    with writing(store):
        for saved in found:
            if saved.step not in kept:
                store.remove(f"{_FOLDER}/{saved.step:08d}.json")
                store.remove(saved.folder)
        named = {saved.folder for saved in found}
        for name in store.names(_FOLDER):
            step = name.partition("-")[0]
            known = name.endswith(".json") or f"{_FOLDER}/{name}" in named
            if found and not known and step.isdigit() and int(step) <= found[-1].step:
                store.remove(f"{_FOLDER}/{name}")
        for name in store.names(""):
            if UNFINISHED in name:
                store.remove(name)


class Background:
    """Saves checkpoints in a thread, one at a time, while training goes on."""

    def __init__(self, store: Store, keep: int, metric: str) -> None:
        self._store, self._keep, self._metric = store, keep, metric
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def save(self, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Begin to save; waits for the one before, and raises what went wrong with it."""
        self.wait()
        self._last = self._thread.submit(self._save, step, metrics, write)

    def _save(self, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        try:
            save_checkpoint(self._store, step, metrics, write)
            prune(self._store, self._keep, self._metric)
        except OSError as error:
            raise RaycolError(f"{self._store}: the checkpoint of step {step} cannot be saved ({error})") from error

    def wait(self) -> None:
        """Wait until what was begun is saved."""
        last, self._last = self._last, None
        if last:
            last.result()

    def close(self) -> None:
        """End the thread, once what was begun is saved or has failed."""
        self._thread.shutdown()
