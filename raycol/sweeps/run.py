"""`raycol sweep`: train with sampled settings on Ray Tune, stop what lags behind, keep the best model.

out/trials/NUMBER/                   a trial, see `trial`
out/trials/prepared/                 the training set, if all trials have the same
out/model                            the best finished trial's model
out/table.md, sweep.json, picture.svg
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from raycol.core.progress import Report, no_report
from raycol.distributed.executor import ON_RAY
from raycol.distributed.session import ray_errors, ray_session
from raycol.errors import RaycolError
from raycol.storage import open_store
from raycol.sweeps.config import SweepConfig
from raycol.sweeps.picture import draw
from raycol.sweeps.recipe import trainings_of, with_absolute_inputs
from raycol.sweeps.result import SweepResult, Trial
from raycol.sweeps.trial import OnEvaluation, read_trial, run_trial
from raycol.training.config import TrainConfig
from raycol.training.preparation import have_same_set, write_training_set

MODEL, TRIALS, PREPARED = "model", "trials", "prepared"
# Processes that a trial may lose, and goes on from its last checkpoint.
_MAX_LOSSES = 3


def run_sweep(config: SweepConfig, report: Report = no_report) -> SweepResult:
    """Train all trials that have not ended, and write the best model, the table, the JSON and the picture.

    Raises:
        InputError: the recipe, a trial's settings or the data are invalid, or `out` has trials with other settings.
        RaycolError: no training ended.
    """
    out = config.out.absolute()
    sampled, configs = zip(*trainings_of(config.recipe, config.seed, config.trials, out / TRIALS), strict=True)
    trainings = [with_absolute_inputs(training) for training in configs]
    out.mkdir(parents=True, exist_ok=True)
    store = open_store(str(out))
    with store.lock("running"):
        _restore_best(out)
        trainings = share_training_set(trainings, out / TRIALS / PREPARED, report)
        _tune(trainings, config, report)
        trials = [
            Trial(number, settings, **dict(read_trial(Path(training.out).parent)))
            for number, (settings, training) in enumerate(zip(sampled, trainings, strict=True))
        ]
        finished = [trial for trial in trials if trial.status == "finished" and trial.values]
        if not finished:
            error = next((trial.error for trial in trials if trial.error), "none was evaluated")
            raise RaycolError(f"no training of the sweep ended: {error}")
        best = max(finished, key=lambda trial: (max(trial.values), -trial.number))
        os.rename(trainings[best.number].out, out / MODEL)
        (out / _BEST).write_text(str(best.number))
        metric = trainings[0].eval_metric
        result = SweepResult(str(out), str(out / MODEL), metric, best.number, tuple(trials))
        store.write("table.md", result.markdown().encode())
        store.write("sweep.json", to_json({**asdict(result), "settings": config.effective()}, indent=1))
        store.write("picture.svg", draw(result))
    return result


_BEST = f"{TRIALS}/best.txt"


def share_training_set(trainings: Sequence[TrainConfig], folder: Path, report: Report) -> list[TrainConfig]:
    """Write the training set of all trials, by default to `folder`, unless they have different ones.

    Returns:
        The trainings on that set.

    Raises:
        InputError: unusable data.
    """
    locations = {training.prepared or str(folder) for training in trainings}
    if len(locations) > 1 or not have_same_set(trainings):
        return list(trainings)
    (location,) = locations
    report(0, None, "reading the examples")
    write_training_set(trainings[0], location, ON_RAY, report)
    return [training.model_copy(update={"prepared": location}) for training in trainings]


def _restore_best(out: Path) -> None:
    """Move the best model of an earlier run back to its trial."""
    if (out / _BEST).is_file():
        if (out / MODEL).exists():
            os.rename(out / MODEL, out / TRIALS / f"{int((out / _BEST).read_text()):03d}" / MODEL)
        (out / _BEST).unlink()


def _tune(trainings: Sequence[TrainConfig], config: SweepConfig, report: Report) -> None:
    """Run the trials on Ray Tune."""
    report(0, None, "starting Ray")
    resources = trainings[0].resources
    at_once = min(config.concurrent or len(trainings), len(trainings))
    workers = min(at_once, max(1, int((os.cpu_count() or 1) // resources["CPU"])))
    # Trials keep the working directory, and write no files of Tune's loggers.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    with ray_session(workers, config.wait_for_nodes, **resources), ray_errors("the sweep"):
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        scheduler = ASHAScheduler(
            time_attr="evaluations",
            metric="value",
            mode="max",
            max_t=10**6,
            grace_period=config.min_evaluations,
            reduction_factor=config.reduction,
        )

        class Progress(tune.Callback):
            """Reports the trials that have ended. Tune pickles its callbacks, which no report can be."""

            def __init__(self, report: Report, n_trials: int) -> None:
                self.report, self.n_trials = report, n_trials
                self.ended: set[int] = set()

            def __getstate__(self) -> dict[str, Any]:
                return {}

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                self.ended.add(trial.config["number"])
                self.report(len(self.ended), self.n_trials, "training")

        report(0, len(trainings), "training")
        with tempfile.TemporaryDirectory(dir=config.out.absolute(), prefix=".tune-") as files:
            results = tune.Tuner(
                tune.with_resources(tune.with_parameters(_run_on_tune, trainings=list(trainings)), resources),
                param_space={"number": tune.grid_search(list(range(len(trainings))))},
                tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=config.concurrent),
                run_config=tune.RunConfig(
                    storage_path=files,
                    name="sweep",
                    verbose=0,
                    callbacks=[Progress(report, len(trainings))],
                    failure_config=tune.FailureConfig(max_failures=_MAX_LOSSES),
                ),
            ).fit()
    if results.errors:
        reason = str(results.errors[0]).strip().splitlines()[-1]
        raise RaycolError(f"a trial of the sweep failed repeatedly: {reason}; repeat the command to continue")


def _run_on_tune(parameters: dict[str, Any], trainings: Sequence[TrainConfig]) -> None:
    from ray import tune

    run_trial(trainings[parameters["number"]], _reporter(tune.report))


def _reporter(send: Any) -> OnEvaluation:
    """Count evaluations: trials may evaluate at different steps."""
    evaluations = 0

    def on_evaluation(step: int, value: float) -> None:
        nonlocal evaluations
        evaluations += 1
        send({"value": value, "step": step, "evaluations": evaluations})

    return on_evaluation
