"""Verbs that train models, prepare their data, measure and share them: train, sweep, mine, evaluate, push, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raycol.core.progress import console, no_report, progress
from raycol.core.version import __version__
from raycol.data.corpus import OnError
from raycol.evaluation.config import EvaluateConfig
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.mining.report import MINING_REPORT, SCORING_REPORT
from raycol.models.exported import Format
from raycol.models.exporting import ExportConfig
from raycol.storage import absolute, open_store
from raycol.studies.config import StudyConfig
from raycol.sweeps.config import SweepConfig
from raycol.training.batches import Mixing
from raycol.training.config import TrainConfig
from raycol.training.hub import PushConfig
from raycol.training.loss import Loss
from raycol.training.setting_types import Attention, Normalization, Objective, Schedule, Scoring, TrainDtype
from raycol.verbs.arguments import ONE_CPU, Dtype, Examples, documented, settings_of
from raycol.verbs.overwriting import beside_evaluation, beside_model, beside_report, rename_within, replaced

if TYPE_CHECKING:
    from raycol.evaluation.result import Evaluation
    from raycol.mining.report import MiningReport, ScoringReport
    from raycol.models.exporting import Exported
    from raycol.studies.result import StudyResult
    from raycol.sweeps.result import SweepResult
    from raycol.training.estimate import TrainEstimate
    from raycol.training.hub import Pushed
    from raycol.training.launch import TrainReport


@documented(TrainConfig)
def train(
    *,
    model: str | Path,
    data: Examples,
    out: str | Path,
    storage: str | Path | None = None,
    prepared: str | Path | None = None,
    objective: Objective | Loss = "cached",
    scoring: Scoring = "maxsim",
    xtr_tokens: int = 256,
    temperature: float = 1.0,
    temperature_learning_rate: float | None = None,
    teacher_temperature: float | None = None,
    normalize_scores: Normalization | None = None,
    contrastive_weight: float = 0.0,
    symmetric: bool = False,
    matryoshka: Sequence[int] = (),
    pool_factor: float = 1.0,
    gather_across_workers: bool = True,
    n_ways: int | None = None,
    sample_negatives: bool = False,
    allow_duplicates: bool = False,
    mask_false_negatives: bool = True,
    mask_margin: float | None = None,
    guide: str | Path | None = None,
    mixing: Mixing = "batches",
    mixing_temperature: float = 1.0,
    remine_every: int | None = None,
    remine: Mapping[str, Any] | str | None = None,
    split: str | None = None,
    on_error: OnError = "fail",
    num_workers: int = 1,
    min_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    batch_size: int = 64,
    mini_batch_size: int = 16,
    mini_batch_tokens: int | None = None,
    score_mini_batch_size: int | None = None,
    activation_tokens: int = 0,
    grad_cache: bool | None = None,
    accumulate: int = 1,
    epochs: int | None = None,
    max_steps: int = 0,
    optimizer: Literal["adamw", "muon"] = "adamw",
    learning_rate: float = 3e-05,
    head_learning_rate: float | None = None,
    embedding_learning_rate: float | None = None,
    layer_decay: float = 1.0,
    freeze_layers: int = 0,
    warmup: float = 0.1,
    schedule: Schedule = "linear",
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    dtype: TrainDtype = "float32",
    attn_implementation: Attention | None = None,
    dataloader_num_workers: int | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002
    shard_weights: bool = False,
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    keep_initial: float = 0.0,
    ema_decay: float = 0.0,
    average_checkpoints: int | None = None,
    report_to: str | Sequence[str] = (),
    tracking_dir: str | Path | None = None,
    save_every: int = 50,
    keep_checkpoints: int = 2,
    eval_data: str | Path | Sequence[str | Path] | None = None,
    eval_split: str | None = None,
    eval_metric: str = "nDCG@10",
    held_out: int = 0,
    eval_every: int = 100,
    patience: int = 0,
    stall_timeout: int = 1800,
    seed: int = 0,
    embedding_size: int | None = None,
    new_projection: bool = False,
    query_length: int | None = None,
    document_length: int | None = None,
    query_expansion: bool | None = None,
    attend_to_expansion: bool | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    skiplist: Sequence[str] | None = None,
    overwrite: bool = False,
) -> TrainReport:
    """Train an encoder on Ray Train; an interrupted training is resumed by the same call.

    Args:
        objective: cached (contrastive, with GradCache), contrastive, distillation (KL), lambda-loss, margin-mse, or a
            `raycol.training.Loss` of your own.
        overwrite: replace the model that an earlier training wrote to `out`, once the new one is complete; a local
            folder only.
    """
    from raycol.training.launch import train as run
    from raycol.training.table import live_table

    with replaced(TrainConfig, "train", locals(), "a model", beside_model) as (config, final):
        bar = nullcontext(no_report) if console.is_terminal else progress("Training")
        with bar as report, live_table() as on_record:
            result = run(config, report, on_record)
        if final != config.out:
            rename_within(Path(config.out) / "training" / "config.yaml", config.out, final)
            result = replace(result, model=absolute(final))
    return result


def plan_training(*, tokens_per_second: float | None = None, **settings: Any) -> TrainEstimate:
    """Estimate a training's steps, tokens, memory, network and hours, without training.

    Args:
        tokens_per_second: a worker's rate, as trainings record it; by default measured on this machine.
        settings: of `train`.
    """
    from raycol.training.estimate import estimate_training

    config = TrainConfig.load(None, settings, "raycol.plan_training")
    with progress("Reading and measuring"):
        return estimate_training(config, tokens_per_second)


@documented(PushConfig)
def push(
    model: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = f"Model trained with raycol {__version__}",
    license: str | None = None,  # noqa: A002
    data_licenses: str | Sequence[str] = (),
) -> Pushed:
    """Upload a trained model and its card to the Hugging Face hub, in one commit."""
    from raycol.training.hub import push_model

    with progress("Uploading"):
        return push_model(settings_of(PushConfig, "push", locals()))


@documented(ExportConfig)
def export(
    model: str | Path,
    *,
    out: str | Path,
    format: Format = "onnx",  # noqa: A002
) -> Exported:
    """Write a model as an ONNX or OpenVINO graph with its tokenizer, and compare its embeddings with the model's."""
    from raycol.models.exporting import export_model

    with progress("Exporting"):
        return export_model(settings_of(ExportConfig, "export", locals()))


@documented(SweepConfig)
def sweep(
    recipe: str | Path,
    *,
    out: str | Path,
    trials: int = 16,
    concurrent: int | None = None,
    min_evaluations: int = 1,
    reduction: float = 3.0,
    seed: int = 0,
    wait_for_nodes: float = 0.0,
) -> SweepResult:
    """Train with sampled settings on Ray Tune, stop what lags behind, and keep the best model."""
    from raycol.sweeps.run import run_sweep

    with progress("Sweeping") as report:
        return run_sweep(settings_of(SweepConfig, "sweep", locals()), report)


@documented(MineConfig)
def mine(
    index: str | Path,
    data: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    out: str | Path,
    split: str | None = None,
    subset: str | None = None,
    short: Literal["skip", "keep"] = "skip",
    batch_size: int = 32,
    queries_per_part: int = 256,
    on_error: OnError = "fail",
    system: str | Sequence[str] = (),
    model: str | Path | None = None,
    version: int | None = None,
    corpus: str | Path | None = None,
    judged: str | Path | Sequence[str | Path] = (),
    from_rank: int = 1,
    to_rank: int = 100,
    margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    negatives: int = 7,
    sampling: Literal["top", "random"] = "top",
    pool: int | None = None,
    cross_encoder: str | Path | None = None,
    cross_encoder_margin: float = 0.0,
    max_length: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> MiningReport:
    """Find hard negatives of training queries, on Ray Data; an interrupted run is resumed.

    Args:
        overwrite: replace the results that an earlier run wrote to `out`, once the new ones are complete; a local
            folder only.
    """
    from raycol.mining.mine import mine_negatives

    with replaced(MineConfig, "mine", locals(), "a result of mining", beside_report(MINING_REPORT)) as (config, final):
        with progress("Mining") as report:
            result = mine_negatives(config, report)
        if final != config.out:
            result = result.model_copy(update={"out": final})
            open_store(config.out).write(MINING_REPORT, result.model_dump_json(indent=1).encode())
    return result


@documented(ScoreConfig)
def score(
    data: str | Path,
    *,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "float32",
    out: str | Path,
    split: str | None = None,
    subset: str | None = None,
    short: Literal["skip", "keep"] = "skip",
    batch_size: int = 32,
    queries_per_part: int = 256,
    on_error: OnError = "fail",
    teacher: str | Path | Sequence[str | Path],
    teacher_weights: Sequence[float] = (),
    normalize: Literal["none", "z-score", "min-max"] | None = None,
    reuse: str | Path | Sequence[str | Path] = (),
    n_ways: int = 8,
    max_length: int | None = None,
    overwrite: bool = False,
) -> ScoringReport:
    """Score training examples with teachers, on Ray Data; an interrupted run is resumed.

    Args:
        overwrite: replace the results that an earlier run wrote to `out`, once the new ones are complete; a local
            folder only.
    """
    from raycol.mining.score import score_examples

    with replaced(ScoreConfig, "score", locals(), "a result of scoring", beside_report(SCORING_REPORT)) as (
        config,
        final,
    ):
        with progress("Scoring") as report:
            result = score_examples(config, report)
        if final != config.out:
            result = result.model_copy(update={"out": final})
            open_store(config.out).write(SCORING_REPORT, result.model_dump_json(indent=1).encode())
    return result


@documented(EvaluateConfig)
def evaluate(
    data: str | Path | Sequence[str | Path],
    *,
    model: str | Path | None = None,
    index: str | Path | None = None,
    system: str | Sequence[str] = (),
    baseline: str | None = None,
    metrics: str | Sequence[str] = ("nDCG@10", "R@10", "R@100", "RR@10"),
    split: str | None = None,
    depth: int | None = None,
    out: str | Path | None = None,
    save_runs: bool = False,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    docs_per_partition: int = 1024,
    on_error: OnError = "fail",
    device: str | None = None,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
    overwrite: bool = False,
) -> Evaluation:
    """Evaluate systems on test collections, and compare them.

    Args:
        overwrite: replace the results that an earlier run wrote to `out`, once the new ones are complete; a local
            folder only.
    """
    from raycol.evaluation.measure import evaluate as run

    written = replaced(EvaluateConfig, "evaluate", locals(), "an evaluation", beside_evaluation)
    with written as (config, _), progress("Evaluating") as report:
        return run(config, report)


@documented(StudyConfig)
def study(
    name: str,
    data: str | Path | Sequence[str | Path],
    *,
    model: str | Path,
    out: str | Path,
    train_data: str | Path | Sequence[str | Path] = (),
    teacher_data: str | Path | Sequence[str | Path] = (),
    peers: str | Path | None = None,
    documents: int | None = None,
    queries: int | None = None,
    split: str | None = None,
    on_error: OnError = "fail",
    docs_per_partition: int = 1024,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    num_workers: int | None = None,
    resources: Mapping[str, float] | str = ONE_CPU,
    wait_for_nodes: float = 0.0,
    dtype: Dtype = "auto",
) -> StudyResult:
    """Run an experiment of many cells on test collections; an interrupted study is continued by the same call."""
    from raycol.studies.run import run_study

    with progress("Studying") as report:
        return run_study(settings_of(StudyConfig, "study", locals()), report)
