"""Rounds of a training that mines its own negatives: round r starts at step r * `remine_every`.

    checkpoint of the step -> model -> index of the corpus -> mined examples -> training set of the round

Training waits for the negatives, so they take effect at the same step for any number of workers, and after a resume.
Each stage is resumable, or written at once. In the storage of the training:

rounds/<r>/round.json           the sources of the training set; written last
rounds/<r>/data/...             the training set
rounds/<r>/model, index, mined  deleted once the training set is recorded
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from raycol.core.progress import Report
from raycol.core.uris import is_uri, join_uri
from raycol.distributed.executor import Executor
from raycol.errors import RaycolError, writing
from raycol.storage import MANIFESTS, Store, open_store
from raycol.storage.checked_files import seal, unseal
from raycol.training.checkpoints import list_checkpoints, newest_intact
from raycol.training.config import TrainConfig
from raycol.training.dataset import SourceInfo
from raycol.training.preparation import write_training_set
from raycol.training.prepare import check_round
from raycol.training.run_storage import ROUNDS, DataLocation, TrainingRun, publishing_model

if TYPE_CHECKING:
    from raycol.indexing import IndexConfig
    from raycol.mining import MineConfig

_RECORD = "round.json"
_MAX_BYTES = 1 << 20


class _Round(BaseModel):
    """The content of `round.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceInfo, ...]


def rounds(
    config: TrainConfig, run: TrainingRun, store: Store, executor: Executor, report: Report
) -> Iterator[TrainingRun]:
    """Yield the rounds that are left, each as a run of its steps; the next one is prepared once its steps are done.

    Raises:
        InputError: nothing can be mined.
        RaycolError: mining failed.
    """
    steps, every = run.work.steps, config.remine_every
    if not every:
        yield run
        return
    newest = newest_intact(store)
    done = newest.step if newest else 0
    while True:
        number = min(done, steps - 1) // every
        done = min((number + 1) * every, steps)
        one = _mined(config, run, store, number, executor, report) if number else run
        yield one.model_copy(update={"work": one.work.model_copy(update={"until": done})})
        if done == steps:
            return


def _mined(
    config: TrainConfig, run: TrainingRun, store: Store, number: int, executor: Executor, report: Report
) -> TrainingRun:
    """The run on the training set of a round, which is mined unless it is recorded."""
    folder = f"{ROUNDS}/{number}"
    data = join_uri(store.uri, f"{folder}/data")
    found = _read(store, folder)
    if not found:
        model, index, mined = (join_uri(store.uri, f"{folder}/{name}") for name in ("model", "index", "mined"))
        _export(config, store, number * (config.remine_every or 0), model)
        _mine(config, model, index, mined, executor, report)
        on_mined = _on(config, mined)
        prepared = write_training_set(on_mined, data, executor, report)
        check_round(on_mined, prepared.sources, data)
        found = _Round(sources=prepared.sources)
        with writing(store):
            store.write(f"{folder}/{_RECORD}", seal(found.model_dump_json().encode()))
            for name in ("model", "index", "mined", ".mined-unfinished"):
                store.remove(f"{folder}/{name}")
    work = run.work.model_copy(update={"sources": found.sources})
    return run.model_copy(update={"work": work, "data": DataLocation(prepared=data)})


def _read(store: Store, folder: str) -> _Round | None:
    try:
        return _Round.model_validate_json(unseal(store.read(f"{folder}/{_RECORD}", _MAX_BYTES)))
    except (OSError, ValueError):  # an outage of an object store raises another error
        return None


def _on(config: TrainConfig, mined: str) -> TrainConfig:
    """The settings of a training on the mined examples."""
    source = type(config.data[0])(path=mined, **config.data[0].own_settings())
    return config.model_copy(update={"data": (source,), "split": None})


def _export(config: TrainConfig, store: Store, step: int, out: str) -> None:
    """Save the model of a step. Raises `RaycolError` without an intact checkpoint of it."""
    from raycol.models.remote import model_exists
    from raycol.models.saving import save_encoder
    from raycol.training.state import WEIGHTS, load_weights
    from raycol.training.worker import merge_adapters, new_encoder

    if model_exists(out) if is_uri(out) else open_store(out).names(""):
        return
    checkpoint = next((one for one in list_checkpoints(store) if one.step == step), None)
    if not checkpoint:
        raise RaycolError(f"{store}: has no checkpoint of step {step}, which mines negatives; remove it to train anew")
    encoder = new_encoder(config, "cpu")
    load_weights(checkpoint.open(store) / WEIGHTS, encoder)
    merge_adapters(encoder)
    with publishing_model(out) as folder:
        save_encoder(encoder, folder)


def _mine(config: TrainConfig, model: str, index: str, mined: str, executor: Executor, report: Report) -> None:
    """Build an index of the corpus with a model, and mine it; what is finished is kept."""
    from raycol.index.format.manifest import BUILDS
    from raycol.indexing import build_index
    from raycol.mining import mine_negatives
    from raycol.mining.job import is_complete

    if is_complete(open_store(mined).names("")):
        return
    mining = mining_of(config, model, index, mined)
    chosen = executor if executor.in_process else None
    if not open_store(index).names(MANIFESTS) or open_store(index).names(BUILDS):
        build_index(indexing_of(mining), report, chosen)
    mine_negatives(mining, report, chosen)


def indexing_of(mining: MineConfig) -> IndexConfig:
    """The settings of the index that a round mines."""
    from raycol.indexing import IndexConfig

    workers = mining.model_dump(include={"num_workers", "resources", "wait_for_nodes", "dtype", "on_error"})
    return IndexConfig(model=mining.model, corpus=mining.corpus, out=mining.index, **workers)


def mining_of(config: TrainConfig, model: str, index: str, out: str) -> MineConfig:
    """The settings of mining for a round. Raises `ValueError` if `remine` has a wrong one."""
    from raycol.mining import MineConfig

    source, workers = config.data[0], {"num_workers": config.num_workers, "resources": config.resources}
    fixed: dict[str, Any] = {"index": index, "model": model, "data": source.path, "out": out, "subset": source.subset,
                             "split": source.split or config.split, "on_error": config.on_error}  # fmt: skip
    return MineConfig.model_validate({**workers, "short": "keep", **(config.remine or {}), **fixed})
