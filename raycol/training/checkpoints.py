"""Checkpoints of one training in a store: a folder of files, and a record that commits it.

    checkpoints/00000050-<hash>/   weights, optimiser, ... (see state.py)
    checkpoints/00000050.json      the files with their checksums, and the evaluation of that step

A record is written last, so what it names is whole. Only the leading worker writes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.index.storage import Files, Store
from raycol.index.storage.files import content_name, describe_file

_FOLDER = "checkpoints"
_MAX_RECORD_BYTES = 1 << 20


class Folder(BaseModel):
    """A folder of the store and its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    files: Files

    def open(self, store: Store) -> Path:
        """A local folder with these files."""
        return store.folder(self.folder, self.files)


class Saved(Folder):
    """A checkpoint: after which step, and what was measured there."""

    step: int
    metrics: dict[str, float]


def publish(store: Store, workspace: Path, parent: str, base: int = 0) -> Folder:
    """Put the files of a workspace into a folder of the store that is named after them."""
    files = {path.name: describe_file(path) for path in sorted(workspace.iterdir())}
    name = f"{parent}/{content_name(base, files)}"
    store.publish(workspace, name, files)
    return Folder(folder=name, files=files)


def list_checkpoints(store: Store) -> list[Saved]:
    """All whole checkpoints, oldest first."""
    found = []
    for name in store.names(_FOLDER):
        if not name.endswith(".json"):
            continue
        try:
            saved = Saved.model_validate_json(store.read(f"{_FOLDER}/{name}", _MAX_RECORD_BYTES))
            store.check_lengths(saved.folder, saved.files)
        except (OSError, ValidationError, IndexCorruptError):
            continue
        found.append(saved)
    return sorted(found, key=lambda saved: saved.step)


def best_of(found: list[Saved], metric: str) -> Saved | None:
    """The checkpoint of the highest metric, the earliest of equal ones; None where none was measured."""
    measured = [saved for saved in found if metric in saved.metrics]
    return max(measured, key=lambda saved: (saved.metrics[metric], -saved.step), default=None)


def save_checkpoint(store: Store, step: int, metrics: dict[str, float], write: Callable[[Path], None]) -> Saved:
    """Write a checkpoint's files to a workspace and publish them, whole or not at all."""
    with writing(store), store.workspace(step) as workspace:
        write(workspace)
        folder = publish(store, workspace, _FOLDER, step)
        saved = Saved(step=step, folder=folder.folder, files=folder.files, metrics=metrics)
        store.write(f"{_FOLDER}/{step:08d}.json", saved.model_dump_json().encode())
    return saved


def prune(store: Store, keep: int, metric: str) -> None:
    """Remove all checkpoints but the newest and the best one, records first."""
    found = list_checkpoints(store)
    kept = {saved.step for saved in found[-keep:]}
    if best := best_of(found, metric):
        kept.add(best.step)
    with writing(store):
        for saved in found:
            if saved.step not in kept:
                store.remove(f"{_FOLDER}/{saved.step:08d}.json")
                store.remove(saved.folder)


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
