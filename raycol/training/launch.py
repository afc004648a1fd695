"""`raycol train`: the driver's side of training on Ray Train.

    prepare -> run.json, data -> workers train, checkpoints -> done.json -> assemble the model -> out

All but the last lies in the storage of the run. The same command goes on with whatever it finds there.
"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raycol import errors
from raycol.core.lazy import without_gc
from raycol.core.progress import Report, no_report
from raycol.core.uris import is_uri, join_uri, without_options
from raycol.distributed.executor import ON_RAY, Executor
from raycol.distributed.session import ray_errors, ray_session
from raycol.errors import InputError, RaycolError
from raycol.models.discovery import find_checkpoint
from raycol.storage import Store, absolute, open_store
from raycol.training.config import TrainConfig
from raycol.training.record import OnRecord
from raycol.training.run_storage import (
    METRICS,
    Run,
    alone,
    begin,
    check_out,
    clear,
    finish,
    is_done,
    mark_done,
    open_run,
)


@dataclass(frozen=True)
class TrainReport:
    """What training did.

    Args:
        model: where it is: a folder's full path, or a URI.
        examples: that were trained on.
        losses: of each step.
        metrics: the kept model's evaluation, if there was one.
        best_step: after which step it was kept.
        seconds: of this run; an earlier one's are not counted.
        remarks: what was left out of the data or filled up, by source.
    """

    model: str
    examples: int
    losses: list[float]
    metrics: dict[str, float]
    best_step: int
    seconds: float
    remarks: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return len(self.losses)


def train(
    config: TrainConfig,
    report: Report = no_report,
    on_record: OnRecord | None = None,
    executor: Executor = ON_RAY,
) -> TrainReport:
    """Train an encoder on Ray Train and save it to `config.out`, whole or not at all.

    A training that was interrupted goes on from its last checkpoint.

    Args:
        config: the settings.
        report: told of the steps.
        on_record: told of all that is known of each step and evaluation: a mapping from names to numbers.
        executor: `ON_RAY`, or `IN_PROCESS` for one worker without Ray Train.

    Raises:
        InputError: no such model or data, too few examples, `out` exists, an unfinished training of other settings
            is in its storage, or several workers are to train in this process.
        RaycolError: workers failed again and again, or the loss is no number any more.
    """
    started = time.monotonic()
    if executor.in_process and config.num_workers > 1:
        raise InputError(f"num_workers is {config.num_workers}; a training in this process has one worker")
    check_out(config.out)
    found = find_checkpoint(config.model)
    # Workers run in folders of their own, and on other machines, so everything is named by its full path.
    full = {
        "model": config.model if is_uri(config.model) else found,
        "out": absolute(config.out),
        "storage": config.place,
    }
    config = config.model_copy(update=full)
    store = open_store(config.place)
    with alone(store):
        begun = open_run(store, config)
        try:
            run = begun or begin(store, config)
            if not is_done(store):
                fit = _train_in_process if executor.in_process else _train_on_ray
                fit(config, run, report, _noting(store, on_record))
            report(run.work.steps, run.work.steps, "saving the model")
            kept, history = finish(store, config, run)
        except BaseException:
            if not begun and not store.names("checkpoints"):
                clear(store)
            raise
        clear(store)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    examples = sum(source.examples for source in run.work.sources)
    remarks = tuple(f"{without_options(one.path)}: {remark}" for one in run.work.sources for remark in one.remarks())
    return TrainReport(config.out, examples, losses, kept.metrics, kept.step, time.monotonic() - started, remarks)


def _noting(store: Store, on_record: OnRecord | None) -> OnRecord:
    """Pass records on, and keep `metrics.jsonl` up to date in a local store; what comes again replaces what was."""
    lines: dict[tuple[float, bool], str] = {}
    path = Path(store.uri) / METRICS if store.is_local else None
    if path and path.is_file():
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the last one may be half of one
                record = json.loads(line)
                lines[record["step"], "loss" in record] = line

    def note(record: dict[str, float]) -> None:
        if on_record:
            on_record(record)
        if not path:
            return
        key = record["step"], "loss" in record
        again = any(step > key[0] for step, _ in lines) or key in lines
        for old in [old for old in lines if old[0] > key[0]]:
            del lines[old]
        lines[key] = json.dumps(record)
        if again:
            path.write_text("".join(f"{line}\n" for line in lines.values()))
        else:
            with path.open("a") as file:
                file.write(lines[key] + "\n")

    return note


def _train_in_process(config: TrainConfig, run: Run, report: Report, on_record: OnRecord) -> None:
    from raycol.training.run_monitor import remark

    def tell(record: dict[str, float]) -> None:
        report(record["step"], record["steps"], remark(record))
        on_record(record)

    store = open_store(str(config.storage))
    _fit(config, run, store, tell)
    mark_done(store)


def _fit(config: TrainConfig, run: Run, store: Store, tell: OnRecord) -> None:
    """Train as one worker, on what `begin` has prepared."""
    from raycol.training.worker import fit

    collection = run.collection.open(store) if run.collection else None
    with tempfile.TemporaryDirectory() as workspace:
        fit(config, run.work, run.data.open(store), collection, Path(workspace), store, tell)


def _train_on_ray(config: TrainConfig, run: Run, report: Report, on_record: OnRecord) -> None:
    with ray_session(config.num_workers, config.wait_for_nodes, **config.resources):
        _fit_on_ray(config, run, report, on_record)


def _fit_on_ray(config: TrainConfig, run: Run, report: Report, on_record: OnRecord) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raycol.training.network import Connected
    from raycol.training.run_monitor import make_board, watch

    board = make_board()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"config": config.effective(), "run": run.model_dump_json(), "board": board},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.on_gpu, resources_per_worker=config.resources
        ),
        torch_config=Connected(timeout_s=config.stall_timeout),
        # Ray's own notes of the run; checkpoints are raycol's. Whether to start workers again is decided by the board.
        run_config=RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=join_uri(str(config.storage), "ray"),
            failure_config=FailureConfig(max_failures=-1),
        ),
    )
    with ray_errors("training"), watch(board, report, on_record), _own_interrupts():
        failure: str = trainer.fit().return_value
    if failure:
        kind, _, message = failure.partition(" ")
        raise getattr(errors, kind)(message)


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Put the handler of SIGINT back: Ray Train leaves its own, which keeps the ended training's actors alive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train_worker(loop: dict[str, Any]) -> str:
    """The train loop of one worker; returns what ended training before its time, if anything did."""
    import ray
    import ray.train

    with without_gc():
        from raycol.training.trainer import StoppedError

    config, run = TrainConfig.model_validate(loop["config"]), Run.model_validate_json(loop["run"])
    board, store = loop["board"], open_store(str(config.storage))
    leads = ray.train.get_context().get_world_rank() == 0
    failure = _agreed(partial(_start, board, store) if leads else None)
    if failure:
        return failure
    try:
        _fit(config, run, store, _teller(board) if leads else lambda record: None)
    except RaycolError as error:
        together = isinstance(error, StoppedError)
        failure = f"{'RaycolError' if together else type(error).__name__} {error}"
        if together or config.num_workers == 1:
            return failure
        # The others wait for this one: Ray starts all again, and then they hear of it.
        ray.get(board.fail.remote(failure, final=True))
        raise
    except Exception as error:
        ray.get(board.fail.remote(f"{type(error).__name__} {type(error).__name__}: {error}", final=False))
        raise
    if leads:
        mark_done(store)
    return ""


def _agreed(ask: Callable[[], str] | None) -> str:
    """What the leading worker finds out, on all workers."""
    from torch import distributed

    answer = [ask() if ask else ""]
    if distributed.is_initialized():
        distributed.broadcast_object_list(answer)
    return answer[0]


def _start(board: Any, store: Store) -> str:
    import ray

    from raycol.training.checkpoints import list_checkpoints

    saved = list_checkpoints(store)
    return str(ray.get(board.start.remote(saved[-1].step if saved else 0)))


def _teller(board: Any) -> Any:
    """Posts records on the board, and as Ray's metrics."""
    from raycol.training.metrics import TrainingMetrics

    metrics = TrainingMetrics()

    def tell(record: dict[str, float]) -> None:
        board.post.remote(record)
        metrics.show(record)

    return tell
