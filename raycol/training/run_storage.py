"""The storage of a training; removed once the model is published.

run.json        settings, fingerprint of the inputs, prepared task, folders of its data
data/...        the training set, unless `prepared` is another place for it
collection/...  the evaluation collections, if any
rounds/...      training sets of mined negatives, see remining.py
checkpoints/    see checkpoints.py
average.json    see checkpoints.py
metrics.jsonl   a line per step and evaluation, appended as they complete
done.json       the last step; written when all steps are done
ray/            Ray Train's files
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

from raycol.core.progress import Report, no_report
from raycol.core.uris import is_uri, join_uri, without_options
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.distributed.partitioned_job import differences
from raycol.errors import IndexCorruptError, InputError, RaycolError, writing
from raycol.models.remote import check_writable, model_exists, publish_model
from raycol.storage import MANIFESTS, Store, StoredFolder, open_store, save_folder
from raycol.storage.checked_files import fsync_folder, fsync_tree, is_content_name
from raycol.storage.replacing import record_files
from raycol.training.checkpoints import (
    AVERAGE_OF,
    Checkpoint,
    Exported,
    first_intact,
    list_checkpoints,
    newest_intact,
    open_average,
    rank_by_metric,
)
from raycol.training.config import MODEL_FILES, TrainConfig
from raycol.training.preparation import data_states, is_of_training_set, location_state
from raycol.training.prepare import TrainingTask, prepare

RUN, DONE, METRICS = "run.json", "done.json", "metrics.jsonl"
ROUNDS = "rounds"
_ENTRIES = (RUN, DONE, METRICS, AVERAGE_OF, "data", "collection", ROUNDS, "checkpoints", "ray")
_CONTENT_FOLDERS = ("data", "collection")
_MAX_BYTES = 16 << 20


class DataLocation(BaseModel):
    """Where the training set is: a folder or URI of its own, or in the store of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prepared: str | None

    def open(self, store: Store) -> str:
        """Return its location, for `TrainingSet`."""
        return self.prepared or join_uri(store.uri, "data")


class TrainingRun(BaseModel):
    """A prepared training, as in `run.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    inputs: list[str]
    work: TrainingTask
    data: DataLocation
    collection: StoredFolder | None

    def open(self, store: Store) -> tuple[str, Path | None]:
        """Return the location of the training set, and a local folder with the collections after comparing checksums.

        Raises:
            RaycolError: a file is missing or damaged.
        """
        with self.checking(store):
            return self.data.open(store), self.collection.open(store) if self.collection else None

    @contextmanager
    def checking(self, store: Store) -> Iterator[None]:
        """Convert the error of a damaged file into a `RaycolError` that says what to do."""
        try:
            yield
        except IndexCorruptError as error:
            what = (
                f"{self.data.prepared}: the training set" if self.data.prepared else f"{store}: the training's storage"
            )
            raise RaycolError(f"{what} is damaged ({error}); remove it and train again") from error


def open_run(store: Store, config: TrainConfig) -> TrainingRun | None:
    """Return the unfinished training in a store, or None if there is none.

    Raises:
        InputError: the training has other settings or inputs, or the store holds other files.
    """
    store.check_writable()
    try:
        run = TrainingRun.model_validate_json(store.read(RUN, _MAX_BYTES))
    except (OSError, ValidationError):  # an outage of an object store raises another error
        if store.names("checkpoints"):
            raise InputError(f"{store}: has checkpoints but no readable {RUN}; remove them to train anew") from None
        _check_unused(store)
        return None
    if differs := differences(run.settings, config.outcome()):
        raise InputError(
            f"{store}: holds an unfinished training that differs in {differs}; pass the same settings to resume it, "
            "remove it, or choose another `out=`"
        )
    if _inputs(config) != run.inputs:
        raise InputError(
            f"{store}: holds an unfinished training whose model or data has changed; restore them, remove the "
            "training, or choose another `out=`"
        )
    return run


def _check_unused(store: Store) -> None:
    """Raise `InputError` if a store without a training holds an index, or entries that `remove_run` would delete.

    Content-named folders are accepted: a training killed before it wrote `run.json` leaves them.
    """
    entries = store.names("")
    known = (RUN, DONE, METRICS, AVERAGE_OF, ROUNDS, "ray", MANIFESTS, "partitions")
    foreign = [name for name in known if name in entries]
    foreign += [f"data/{name}" for name in store.names("data") if not is_of_training_set(name)]
    foreign += [f"collection/{name}" for name in store.names("collection") if not is_content_name(name)]
    foreign += [name for name in _CONTENT_FOLDERS if name in entries and store.describe(name)]
    if foreign:
        raise InputError(
            f"{store}: holds {foreign[0]}, which is not part of a training; pass a folder used for checkpoints only "
            "(they are deleted after training)"
        )


def prepare_run(
    store: Store, config: TrainConfig, executor: Executor = IN_PROCESS, report: Report = no_report
) -> TrainingRun:
    """Prepare a training in a store and write its `run.json`.

    Args:
        store: the storage of the training.
        config: the settings.
        executor: where the examples are read if there are many.
        report: receives the progress.

    Raises:
        InputError: see `prepare`; or the model cannot be opened.
    """
    from raycol.models.encoder import probe_encoder
    from raycol.training.collator import make_collator
    from raycol.training.guide import open_guide
    from raycol.training.worker import new_encoder

    if config.report_to:
        from raycol.training.trackers import check_trackers

        check_trackers(config)
    data = DataLocation(prepared=config.prepared)
    with writing(store), store.workspace(0) as workspace:
        collection = workspace / "collection"
        collection.mkdir()
        task = prepare(config, data.open(store), collection, executor, report)
        # A broken model fails here, once, and not in every worker.
        encoder = new_encoder(config, "cpu")
        probe_encoder(encoder, config.model)
        make_collator(encoder, config.data)
        if config.guide:
            open_guide(config.guide, "cpu")
        run = TrainingRun(
            settings=config.outcome(),
            inputs=_inputs(config),
            work=task,
            data=data,
            collection=save_folder(store, collection, collection.name) if config.evaluates else None,
        )
        store.write(RUN, run.model_dump_json().encode())
    return run


def _inputs(config: TrainConfig) -> list[str]:
    """Fingerprints of the model and the data, a string per location."""
    others = [config.guide, str(config.remine["corpus"]) if config.remine else None]
    locations = (config.model, *filter(None, others), *(config.eval_data or ()))
    states = [f"{location} {location_state(location)}" for location in locations]
    return [*states, *data_states(config)]


def export_model(store: Store, config: TrainConfig, run: TrainingRun) -> tuple[Exported, list[dict[str, float]]]:
    """Export the best evaluated checkpoint, the last one, or the mean of several as a model to `config.out`.

    Returns:
        The checkpoint or the mean, and the Trainer's log history.
    """
    from transformers.trainer import TRAINER_STATE_NAME

    from raycol.models.matryoshka import record_sizes
    from raycol.models.saving import save_encoder
    from raycol.training.averaging import AVERAGE, load_average, load_mean
    from raycol.training.card import write_extras
    from raycol.training.state import WEIGHTS, load_weights, mix_weights, snapshot
    from raycol.training.worker import merge_adapters, new_encoder

    if not (last := _last_checkpoint(store)):
        raise RaycolError(f"{store}: training left no intact checkpoint; repeat the command to resume")
    average = open_average(store)
    history = json.loads((last.open(store) / TRAINER_STATE_NAME).read_bytes())["log_history"]
    encoder = new_encoder(config, "cpu")
    initial = snapshot(encoder) if config.keep_initial else {}
    best: Exported
    if average:
        best, checkpoints = average
        load_mean([checkpoint.open(store) / WEIGHTS for checkpoint in checkpoints], encoder)
    else:
        best = first_intact(store, rank_by_metric(list_checkpoints(store), config.eval_metric)) or last
        folder = best.open(store)
        load_weights(folder / WEIGHTS, encoder)
        if config.ema_decay:
            load_average(folder / AVERAGE, encoder)
    merge_adapters(encoder)
    if initial:
        mix_weights(encoder, initial, config.keep_initial)
    with publishing_model(config.out) as out:
        save_encoder(encoder, out)
        if config.matryoshka:
            record_sizes(out, config.matryoshka)
        write_extras(out, config, run.work, best, history)
        record_files(out, MODEL_FILES)
    return best, history


def check_out(out: str) -> None:
    """Raise if `out` already exists or cannot be written."""
    if is_uri(out):
        check_writable(out)
    elif not Path(out).exists():
        open_store(out).check_writable()
    if model_exists(out) if is_uri(out) else Path(out).exists():
        raise InputError(f"{without_options(out)}: already exists; choose another folder for the model, or remove it")


@contextmanager
def publishing_model(out: str) -> Iterator[Path]:
    """Yield a folder for a model's files and publish it to `out` atomically when the block succeeds."""
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
            # The checkpoints are deleted next, so the model must be on disk first.
            fsync_tree(unfinished)
            os.rename(unfinished, final)
            fsync_folder(final.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_done(store: Store) -> bool:
    """Whether all steps are done; if a checkpoint that is needed is damaged, unmark the run, so that it resumes."""
    names = store.names("")
    if DONE not in names:
        return False
    if _last_checkpoint(store) and (AVERAGE_OF not in names or open_average(store)):
        return True
    with writing(store):
        store.remove(DONE)
    return False


def mark_done(store: Store) -> None:
    """Record that all steps are done, with the last one: early stopping may end before the planned step."""
    store.write(DONE, json.dumps({"step": list_checkpoints(store)[-1].step}).encode())


def _last_checkpoint(store: Store) -> Checkpoint | None:
    """The checkpoint of the last step, if it is intact."""
    try:
        step = json.loads(store.read(DONE, _MAX_BYTES))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    newest = newest_intact(store)
    return newest if newest and newest.step == step else None


def remove_run(store: Store) -> None:
    """Remove a training's files, and its folder if nothing else is in it."""
    with writing(store):
        for name in _ENTRIES:
            store.remove(name)
        store.remove_unfinished()
    if store.is_local:
        with suppress(OSError):
            Path(store.uri).rmdir()  # fails if not empty
