"""Rounds of a training that mines its own negatives: round r starts at step r * `remine_every`.

    checkpoint of the step -> model -> index of the corpus -> mined examples -> training set of the round

Negatives take effect at the same step for any number of workers, and after a resume: training waits for them. With
`remine_in_background` they take effect a round later, and a process beside training mines meanwhile; what it has not
finished by then, or has failed at, is done while training waits. Each stage is resumable, or written at once. In the
storage of the training:

rounds/<r>/round.json           the sources of the training set; written last
rounds/<r>/data/...             the training set
rounds/<r>/model, index, mined  deleted once the training set is recorded
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

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
# What the process beside training fails at is done again, and reported, while training waits.
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_MAX_BYTES = 1 << 20


class _Round(BaseModel):
    """The content of `round.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceInfo, ...]


def rounds(
    config: TrainConfig, run: TrainingRun, store: Store, executor: Executor, report: Report
) -> Generator[TrainingRun]:
    """Yield the rounds that are left, each as a run of its steps; the next one is prepared once its steps are done.

    Close the generator if training fails: a process may be mining beside it.

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
    lag = int(config.remine_in_background)
    while True:
        number = min(done, steps - 1) // every
        done = min((number + 1) * every, steps)
        one = _mined(config, run, store, number, executor, report) if number > lag else run
        part = one.model_copy(update={"work": one.work.model_copy(update={"until": done})})
        following = number + 1
        if lag and number and done < steps and not _read(store, f"{ROUNDS}/{following}"):
            # The checkpoint may be gone by the time that the next round starts.
            _export(config, store, number * every, _places(store, following)[0])
            with _mining_beside(config, store, following, executor):
                yield part
        else:
            yield part
        if done == steps:
            return


def _places(store: Store, number: int) -> tuple[str, str, str]:
    """Where the model, the index and the mined examples of a round are."""
    model, index, mined = (join_uri(store.uri, f"{ROUNDS}/{number}/{name}") for name in ("model", "index", "mined"))
    return model, index, mined


def _mined(
    config: TrainConfig, run: TrainingRun, store: Store, number: int, executor: Executor, report: Report
) -> TrainingRun:
    """The run on the training set of a round, which is mined unless it is recorded."""
    folder = f"{ROUNDS}/{number}"
    data = join_uri(store.uri, f"{folder}/data")
    found = _read(store, folder)
    if not found:
        places = _places(store, number)
        step = (number - int(config.remine_in_background)) * (config.remine_every or 0)
        _export(config, store, step, places[0])
        _mine(mining_of(config, *places), executor, report)
        on_mined = _on(config, places[2])
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


def _mine(mining: MineConfig, executor: Executor, report: Report) -> None:
    """Build an index of the corpus with the model, and mine it; what is finished is kept."""
    from raycol.index.format.manifest import BUILDS
    from raycol.indexing import build_index
    from raycol.mining import mine_negatives
    from raycol.mining.job import is_complete

    if is_complete(open_store(str(mining.out)).names("")):
        return
    chosen, index = executor if executor.in_process else None, str(mining.index)
    if not open_store(index).names(MANIFESTS) or open_store(index).names(BUILDS):
        build_index(indexing_of(mining), report, chosen)
    mine_negatives(mining, report, chosen)


@contextmanager
def _mining_beside(config: TrainConfig, store: Store, number: int, executor: Executor) -> Iterator[None]:
    """Mine for a round in another process during the block; wait for it at the end, or stop it if the block fails."""
    words = [sys.executable, "-P", "-c", "from raycol.training.remining import mine_beside; mine_beside()"]
    mining = mining_of(config, *_places(store, number)).model_dump(mode="json", exclude_unset=True)
    # An embedded session is on this machine only: a second one beside it would not add workers.
    in_process = executor.in_process or not os.environ.get("RAY_ADDRESS")
    request = json.dumps({"in_process": in_process, "mining": mining})
    with subprocess.Popen(words, bufsize=0, stdin=subprocess.PIPE, **_QUIET) as process:  # noqa: S603
        with suppress(BrokenPipeError):  # it has failed already
            cast("IO[bytes]", process.stdin).write(f"{request}\n".encode())
        try:
            yield
            process.wait()
        except BaseException:
            process.kill()
            raise


def mine_beside() -> None:
    """Mine as standard input says, until it ends: so this process does not outlive the training."""
    from raycol.distributed.executor import IN_PROCESS, ON_RAY
    from raycol.mining import MineConfig

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    _mine(
        MineConfig.model_validate(request["mining"]),
        IN_PROCESS if request["in_process"] else ON_RAY,
        lambda *_: None,
    )


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
