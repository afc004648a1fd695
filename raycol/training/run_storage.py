"""What the storage of a training holds, from its beginning to its end.

All of it is removed once the model is in its place.

    run.json        the settings, what was prepared, and where it is
    data/...        the training set
    collection/...  the collection to evaluate on, if any
    checkpoints/    see checkpoints.py
    metrics.jsonl   what is known of each step, as it comes
    done.json       there once all steps are done: which was the last
    ray/            Ray Train's own notes
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raycol.core.locks import file_lock
from raycol.core.uris import is_uri, without_options
from raycol.data import corpus_files
from raycol.data.corpus import identity
from raycol.data.files import folder_state, what_is
from raycol.errors import InputError, RaycolError, writing
from raycol.models.remote import check_writable, holds_model, publish_model
from raycol.storage import MANIFESTS, Store, open_store
from raycol.storage.checked_files import fsync_folder, fsync_tree, is_content_name
from raycol.storage.store import UNFINISHED
from raycol.training.checkpoints import (
    Folder,
    Saved,
    by_metric,
    first_whole,
    list_checkpoints,
    newest_whole,
    publish,
)
from raycol.training.config import TrainConfig
from raycol.training.evaluation import METRIC
from raycol.training.prepare import TrainingTask, prepare

RUN, DONE, METRICS = "run.json", "done.json", "metrics.jsonl"
_LOCK = ".lock"
_OURS = (RUN, DONE, METRICS, "data", "collection", "checkpoints", "ray", _LOCK)
_FOLDERS = ("data", "collection")
_MAX_BYTES = 16 << 20


class Run(BaseModel):
    """A training that was begun."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    inputs: list[str]
    work: TrainingTask
    data: Folder
    collection: Folder | None


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Keep other commands from training in a local storage while the block runs.

    Raises:
        InputError: one is at work there.
    """
    store.check_writable()
    if not store.is_local:
        yield
        return
    folder = Path(store.uri)
    with writing(store):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / _LOCK, "training"):
        try:
            yield
        finally:
            if folder.is_dir() and os.listdir(folder) == [_LOCK]:
                with suppress(OSError):
                    (folder / _LOCK).unlink()
                    folder.rmdir()


def open_run(store: Store, config: TrainConfig) -> Run | None:
    """The training that is in a store.

    Raises:
        InputError: it is another one.
    """
    store.check_writable()
    try:
        run = Run.model_validate_json(store.read(RUN, _MAX_BYTES))
    except (OSError, ValidationError):  # an object store's outage is neither
        if store.names("checkpoints"):
            raise InputError(f"{store}: holds checkpoints without a readable {RUN}; remove it") from None
        _check_unused(store)
        return None
    settings = config.outcome()
    for name in settings.keys() | run.settings.keys():
        if settings.get(name) != run.settings.get(name):
            raise InputError(
                f"{store}: holds an unfinished training with {name} {run.settings.get(name)!r}, not "
                f"{settings.get(name)!r}; give the same settings to go on with it, remove it, or choose another --out"
            )
    if _inputs(config) != run.inputs:
        raise InputError(
            f"{store}: holds an unfinished training, and its model or data has changed since; bring back what it was "
            "begun with, remove it, or choose another --out"
        )
    return run


def _check_unused(store: Store) -> None:
    """Raise `InputError` where no training is and something else has a name that a training's files have.

    All of these names are removed once the training is done. A training that was killed before it had begun may have
    left folders of its own, which are named after their contents.
    """
    there = store.names("")
    found = [name for name in (RUN, DONE, METRICS, "ray", MANIFESTS, "partitions") if name in there]
    for folder in _FOLDERS:
        found += [f"{folder}/{name}" for name in store.names(folder) if not is_content_name(name)]
        if folder in there and store.describe(folder):
            found.append(folder)
    if found:
        raise InputError(
            f"{store}: holds {found[0]}, which no training has written; expected a folder for checkpoints alone, "
            "which are removed when it is done"
        )


def begin(store: Store, config: TrainConfig) -> Run:
    """Prepare a training and write down what was prepared.

    Raises:
        InputError: see `prepare`; or the model cannot be opened.
    """
    from raycol.models.encoder import probe_encoder
    from raycol.training.worker import new_encoder

    with writing(store), store.workspace(0) as workspace:
        data, collection = workspace / "data", workspace / "collection"
        data.mkdir()
        collection.mkdir()
        work = prepare(config, data, collection)
        # What is wrong with it is said now, not by every worker.
        probe_encoder(new_encoder(config, "cpu"), config.model)
        run = Run(
            settings=config.outcome(),
            inputs=_inputs(config),
            work=work,
            data=publish(store, data, data.name),
            collection=publish(store, collection, collection.name) if config.evaluates else None,
        )
        store.write(RUN, run.model_dump_json().encode())
    return run


def _inputs(config: TrainConfig) -> list[str]:
    """What tells whether the model and the data are other ones now."""
    places = [config.model, *(str(place) for place in [config.eval_data] if place)]
    for source in config.data:
        places += [str(place) for place in (source.path, source.queries, source.documents) if place]
    return [f"{place} {_state(place)}" for place in places]


def _state(place: str) -> str:
    try:
        if what_is(place) == "folder":
            return folder_state(place, "*")
        return " ".join(identity(file) for file in corpus_files(place))
    except InputError:  # a model of the hub, a glob of lookups
        return ""


def finish(store: Store, config: TrainConfig, run: Run) -> tuple[Saved, list[dict[str, float]]]:
    """Make the trained model of the best checkpoint, or of the last, and put it to `config.out`.

    Returns:
        The checkpoint, and what was noted of each step.
    """
    from transformers.trainer import TRAINER_STATE_NAME

    from raycol.models.saving import save_encoder
    from raycol.training.card import write_extras
    from raycol.training.state import WEIGHTS, load_weights, mix_weights, snapshot
    from raycol.training.worker import merge_adapters, new_encoder

    if not (last := _last(store)):
        raise RaycolError(f"{store}: training ended without a whole checkpoint; run the same command again to go on")
    kept = first_whole(store, by_metric(list_checkpoints(store), METRIC)) or last
    history = json.loads((last.open(store) / TRAINER_STATE_NAME).read_bytes())["log_history"]
    encoder = new_encoder(config, "cpu")
    start = snapshot(encoder) if config.keep_initial else {}
    load_weights(kept.open(store) / WEIGHTS, encoder)
    merge_adapters(encoder)
    if start:
        mix_weights(encoder, start, config.keep_initial)
    with placing(config.out) as folder:
        save_encoder(encoder, folder)
        write_extras(folder, config, run.work, kept, history)
    return kept, history


def check_out(out: str) -> None:
    """Raise what stands in the way of a model there: another one, or a place that cannot be written."""
    if is_uri(out):
        check_writable(out)
    elif not Path(out).exists():
        open_store(out).check_writable()
    if holds_model(out) if is_uri(out) else Path(out).exists():
        raise InputError(f"{without_options(out)}: already exists; choose another folder for the model, or remove it")


@contextmanager
def placing(out: str) -> Iterator[Path]:
    """A folder for a model's files, which are at their place after the block, or none of them."""
    if is_uri(out):
        with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            publish_model(Path(folder), out)
        return
    final = Path(out)
    unfinished = final.parent / f".{final.name}-{uuid.uuid4().hex}"
    try:
        with writing(out):
            final.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            # The checkpoints are removed once the model is in its place, so it must be on the disk by then.
            fsync_tree(unfinished)
            os.rename(unfinished, final)
            fsync_folder(final.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_done(store: Store) -> bool:
    """Whether all steps are done, and the last checkpoint is whole: otherwise training goes on from one before it."""
    if DONE in store.names("") and not _last(store):
        with writing(store):
            store.remove(DONE)
        return False
    return DONE in store.names("")


def mark_done(store: Store) -> None:
    """Note that all steps are done, and which was the last: training may stop early."""
    store.write(DONE, json.dumps({"step": list_checkpoints(store)[-1].step}).encode())


def _last(store: Store) -> Saved | None:
    """The checkpoint of the last step, if it is whole."""
    try:
        step = json.loads(store.read(DONE, _MAX_BYTES))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = newest_whole(store)
    return whole if whole and whole.step == step else None


def clear(store: Store) -> None:
    """Remove what a training kept, and nothing else: the folder may be somebody's."""
    unfinished = [name for name in store.names("") if UNFINISHED in name]
    with writing(store):
        for name in (*_OURS, *unfinished):
            store.remove(name)
    if store.is_local:
        with suppress(OSError):
            Path(store.uri).rmdir()  # only where it is empty
