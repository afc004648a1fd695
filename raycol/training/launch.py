"""`raycol train`: the driver of a training on Ray Train.

    prepare -> run.json, data -> workers train, checkpoints -> done.json -> export the model -> out

Everything but `out` is in the storage of the run; the same command resumes from it.
"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from raycol.core.lazy import without_gc
from raycol.core.progress import Report, no_report
from raycol.core.shown import Shown
from raycol.core.uris import is_uri, join_uri, without_options
from raycol.distributed.executor import ON_RAY, Executor
from raycol.distributed.session import ray_errors, ray_session
from raycol.errors import InputError, RaycolError
from raycol.models.discovery import find_checkpoint
from raycol.storage import Store, absolute, open_store
from raycol.training.config import TrainConfig
from raycol.training.metrics import OnRecord, evaluation_of, improved, metric_of
from raycol.training.preparation import absolute_input
from raycol.training.remining import rounds
from raycol.training.run_storage import (
    METRICS,
    TrainingRun,
    check_out,
    export_model,
    is_done,
    mark_done,
    open_run,
    prepare_run,
    remove_run,
)

# Steps whose mean loss is compared: the losses of single batches vary more than training changes them.
_COMPARABLE_STEPS = 20


@dataclass(frozen=True, repr=False)
class TrainReport(Shown):
    """Outcome of a training.

    Args:
        model: absolute path or URI of the trained model.
        examples: number of training examples.
        losses: loss of each step.
        metrics: evaluation of the exported checkpoint; empty if nothing was evaluated. After the averages over several
            collections come the metrics of each, as "nDCG@10 NAME".
        best_step: step of the exported checkpoint; with `average_checkpoints`, of the best of those averaged.
        seconds: wall time of this command, without the runs that it resumes.
        remarks: what was skipped or padded in the data, by source.
        untrained: evaluation of the model before the first step.
        eval_metric: the metric that selected the checkpoint.
        collections: what it was evaluated on, each with its split.
        masked_pairs: number of pairs of query and passage left out of each step's negatives, as false negatives; empty
            if nothing is masked.
        averaged_steps: steps of the checkpoints whose mean is the model, the best first; empty if it is no mean.
    """

    _main: ClassVar = ("model", "steps", "examples", "metrics", "best_step", "improved", "seconds")

    model: str
    examples: int
    losses: list[float]
    metrics: dict[str, float]
    best_step: int
    seconds: float
    remarks: tuple[str, ...] = ()
    untrained: dict[str, float] = field(default_factory=dict)
    eval_metric: str = "nDCG@10"
    collections: tuple[str, ...] = ()
    masked_pairs: list[int] = field(default_factory=list)
    averaged_steps: tuple[int, ...] = ()

    @property
    def improved(self) -> bool | None:
        """Whether the exported checkpoint has a better `eval_metric` than the untrained model; None if unknown."""
        return improved(self.eval_metric, self.untrained, self.metrics)

    @property
    def selection(self) -> dict[str, tuple[float | None, float]]:
        """By collection, `eval_metric` of the untrained model, if known, and of the exported checkpoint."""
        names = {name: metric_of(self.eval_metric, name) for name in self.collections}
        if len(names) == 1:
            names = dict.fromkeys(names, self.eval_metric)
        elif names:
            names["average"] = self.eval_metric
        return {
            name: (self.untrained.get(key), self.metrics[key]) for name, key in names.items() if key in self.metrics
        }

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return len(self.losses)

    @property
    def loss_summary(self) -> str:
        """The mean loss of the first and of the last tenth of the steps, if a tenth has enough steps to compare."""
        n = len(self.losses) // 10
        if n < _COMPARABLE_STEPS:
            last = self.losses[-_COMPARABLE_STEPS:]
            return f"mean loss {fmean(last):.3f} (last {len(last)} steps)"
        first, last = self.losses[:n], self.losses[-n:]
        return f"mean loss {fmean(first):.3f} -> {fmean(last):.3f} (first and last tenth of the steps)"


def train(
    config: TrainConfig,
    report: Report = no_report,
    on_record: OnRecord | None = None,
    executor: Executor = ON_RAY,
) -> TrainReport:
    """Train an encoder on Ray Train and save it to `config.out` atomically.

    Resumes an interrupted training from its newest checkpoint.

    Args:
        config: the settings.
        report: progress callback, called on every step and evaluation.
        on_record: called on every step and evaluation with its metrics.
        executor: `ON_RAY`, or `IN_PROCESS` for one worker without Ray Train.

    Raises:
        InputError: the model or the data does not exist, there are too few examples, `out` exists, the storage holds
            an unfinished training with other settings, or `IN_PROCESS` with several workers.
        RaycolError: workers failed repeatedly, or the loss or gradient is not finite.
    """
    started = time.monotonic()
    if executor.in_process and config.num_workers > 1:
        raise InputError(f"num_workers is {config.num_workers}; in-process training has 1 worker: pass 1 or use Ray")
    check_out(config.out)
    # Workers have other working directories, and may be on other machines.
    absolute_paths = {
        **{
            name: location if is_uri(location) else find_checkpoint(location)
            for name, location in (("model", config.model), ("guide", config.guide))
            if location
        },
        "out": absolute(config.out),
        "storage": config.storage_uri,
        "prepared": config.prepared and absolute(config.prepared),
        "remine": config.remine and {**config.remine, "corpus": absolute_input(str(config.remine["corpus"]))},
        **({"tracking_dir": config.tracking_folder} if config.report_to else {}),
    }
    config = config.model_copy(update=absolute_paths)
    store = open_store(config.storage_uri)
    with store.lock("training"):
        unfinished = open_run(store, config)
        try:
            report(0, None, "reading the examples")
            run = unfinished or prepare_run(store, config, executor, report)
            if not is_done(store):
                fit = _train_in_process if executor.in_process else _train_on_ray
                write = _record_writer(store, on_record)
                with closing(rounds(config, run, store, executor, report)) as parts:
                    for part in parts:
                        fit(config, part, report, write)
            report(run.work.steps, run.work.steps, "saving the model")
            best, history = export_model(store, config, run)
        except BaseException:
            if not unfinished and not store.names("checkpoints"):
                remove_run(store)
            raise
        remove_run(store)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    examples = sum(source.examples for source in run.work.sources)
    remarks = tuple(f"{without_options(one.path)}: {remark}" for one in run.work.sources for remark in one.remarks())
    untrained = next((evaluation_of(entry) for entry in history if entry["step"] == 0), {})
    collections = tuple(map(str, run.work.collections))
    return TrainReport(
        config.out, examples, losses, best.metrics, best.step, time.monotonic() - started, remarks, untrained,
        config.eval_metric, collections, [int(entry["masked_pairs"]) for entry in history if "masked_pairs" in entry],
        best.steps if config.average_checkpoints else (),
    )  # fmt: skip


def _record_writer(store: Store, on_record: OnRecord | None) -> OnRecord:
    """Return a callback that calls `on_record` and, in a local store, appends to `metrics.jsonl`.

    After a resume, repeated steps replace the records of the lost ones.
    """
    lines: dict[tuple[float, bool], str] = {}
    path = Path(store.uri) / METRICS if store.is_local else None
    if path and path.is_file():
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the last line may be truncated
                record = json.loads(line)
                lines[record["step"], "loss" in record] = line

    def write(record: dict[str, float]) -> None:
        if on_record:
            on_record(record)
        if not path:
            return
        key = record["step"], "loss" in record
        rewinds = any(step > key[0] for step, _ in lines) or key in lines
        for stale in [other for other in lines if other[0] > key[0]]:
            del lines[stale]
        lines[key] = json.dumps(record)
        if rewinds:
            path.write_text("".join(f"{line}\n" for line in lines.values()))
        else:
            with path.open("a") as file:
                file.write(lines[key] + "\n")

    return write


def _train_in_process(config: TrainConfig, run: TrainingRun, report: Report, on_record: OnRecord) -> None:
    from raycol.training.run_monitor import summarize

    def forward(record: dict[str, float]) -> None:
        report(record["step"], record["steps"], summarize(record))
        on_record(record)

    store = open_store(str(config.storage))
    _fit(config, run, store, forward)
    if run.work.ends:
        mark_done(store)


def _fit(config: TrainConfig, run: TrainingRun, store: Store, on_record: OnRecord) -> None:
    """Train as one worker on the data of a prepared run."""
    from raycol.training.worker import fit

    data, collection = run.open(store)
    with run.checking(store), tempfile.TemporaryDirectory() as workspace:
        fit(config, run.work, data, collection, Path(workspace), store, on_record)


def _train_on_ray(config: TrainConfig, run: TrainingRun, report: Report, on_record: OnRecord) -> None:
    report(0, None, "starting Ray")
    with ray_session(config.num_workers, config.wait_for_nodes, config.min_workers, **config.resources):
        report(0, run.work.steps, "starting the workers and loading the model")
        _fit_on_ray(config, run, report, on_record)


def _fit_on_ray(config: TrainConfig, run: TrainingRun, report: Report, on_record: OnRecord) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raycol.training.network import NodeAddressTorchConfig
    from raycol.training.run_monitor import start_run_monitor, watch

    trainer_class = TorchTrainer
    number: int | tuple[int, int] = config.num_workers
    if config.min_workers:
        from raycol.training.elastic import elastic_trainer

        trainer_class, number = elastic_trainer(config.batch_size), (config.min_workers, config.num_workers)
    monitor = start_run_monitor()
    trainer = trainer_class(
        _train_worker,
        train_loop_config={"config": config, "run": run, "monitor": monitor},
        scaling_config=ScalingConfig(num_workers=number, use_gpu=config.on_gpu, resources_per_worker=config.resources),
        torch_config=NodeAddressTorchConfig(timeout_s=config.stall_timeout),
        # Only for Ray's own files, since raycol writes the checkpoints; the run monitor limits restarts, not Ray.
        run_config=RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=join_uri(str(config.storage), "ray"),
            failure_config=FailureConfig(max_failures=-1),
        ),
    )
    with ray_errors("training"), watch(monitor, report, on_record), _restore_sigint():
        failure: RaycolError | None = trainer.fit().return_value
    if failure:
        raise failure


@contextmanager
def _restore_sigint() -> Iterator[None]:
    """Restore the SIGINT handler after the block: Ray Train leaves its own, which keeps finished actors alive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _train_worker(loop: dict[str, Any]) -> RaycolError | None:
    """Train loop of one worker. Returns the error that ended training: if it were raised, Ray would start again."""
    import ray
    import ray.train

    with without_gc():
        from raycol.training.trainer import StoppedError

    context = ray.train.get_context()
    config: TrainConfig = loop["config"].model_copy(update={"num_workers": context.get_world_size()})
    monitor, store = loop["monitor"], open_store(str(config.storage))
    is_rank_0 = context.get_world_rank() == 0
    failure = _broadcast(partial(_register_start, monitor, store) if is_rank_0 else None)
    if failure:
        return failure
    try:
        _fit(config, loop["run"], store, _record_publisher(monitor) if is_rank_0 else lambda record: None)
    except StoppedError as error:  # on all workers
        return RaycolError(str(error))
    except RaycolError as error:
        if config.num_workers == 1:
            return error
        # The other workers block on this one. Ray restarts all of them, and they get the error from the monitor.
        ray.get(monitor.end_with.remote(error))
        raise
    except Exception as error:
        ray.get(monitor.report_crash.remote(f"{type(error).__name__}: {error}"))
        raise
    if is_rank_0 and loop["run"].work.ends:
        mark_done(store)
    return None


def _broadcast(compute: Callable[[], RaycolError | None] | None) -> RaycolError | None:
    """Broadcast the result of rank 0's `compute` to all workers; the others pass None."""
    from torch import distributed

    result = [compute() if compute else None]
    if distributed.is_initialized():
        distributed.broadcast_object_list(result)
    return result[0]


def _register_start(monitor: Any, store: Store) -> RaycolError | None:
    import ray

    from raycol.training.checkpoints import list_checkpoints

    checkpoints = list_checkpoints(store)
    error: RaycolError | None = ray.get(monitor.register_start.remote(checkpoints[-1].step if checkpoints else 0))
    return error


def _record_publisher(monitor: Any) -> Any:
    """Return a callback that sends records to the run monitor and to Ray's metrics."""
    from raycol.training.metrics import TrainingMetrics

    metrics = TrainingMetrics()

    def publish(record: dict[str, float]) -> None:
        monitor.add_record.remote(record)
        metrics.update(record)

    return publish
