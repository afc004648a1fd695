"""`raycol score`: a cross-encoder's scores for the documents of training examples, on Ray Data.

Each row of the Ray Dataset is a part of the examples; a worker reads it, scores it, and writes a file.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from raycol.core.progress import Report, no_report
from raycol.data import BadRecord
from raycol.data.examples import read_examples
from raycol.distributed.executor import ON_RAY, Executor
from raycol.errors import InputError
from raycol.indexing.report import library_versions
from raycol.indexing.source import model_name
from raycol.mining.config import ScoreConfig
from raycol.mining.cross_encoder import cross_encoder_fingerprint, load_cross_encoder, probe_cross_encoder
from raycol.mining.job import MiningJob, Planning
from raycol.mining.report import SCORING_REPORT, ScoringReport
from raycol.mining.scoring import EXAMPLE_SCHEMA
from raycol.mining.workers import ScoringWorker
from raycol.mining.workspace import refuse_finished
from raycol.models.discovery import find_checkpoint

_DECIDES = {"n_ways", "short", "max_length", "batch_size", "queries_per_part", "dtype"}


def score_examples(config: ScoreConfig, report: Report = no_report, executor: Executor = ON_RAY) -> ScoringReport:
    """Score examples; or go on where the same command was interrupted.

    Raises:
        InputError: `out` is there already or another command is unfinished there; unusable examples or teacher; or no
            example has enough documents.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started = time.monotonic()
    refuse_finished(config.out)
    find_checkpoint(config.teacher)
    problems: list[BadRecord] = []
    found: Counter[str] = Counter()
    with Planning(config.out) as plan:
        plan.add(_read(config, problems, found), EXAMPLE_SCHEMA, config.queries_per_part)
        if not plan.sizes:
            raise InputError(
                f"{config.data}: none of {found['examples']} examples has "
                f"{2 if config.short == 'keep' else config.n_ways} documents; lower --n-ways"
            )
        # torch is imported once the rest of the input is known to be good.
        teacher = load_cross_encoder(config.teacher, device="cpu", max_length=config.max_length)
        probe_cross_encoder(teacher, config.teacher)
        fingerprint = cross_encoder_fingerprint(teacher)
        # Workers run in folders of their own, so everything is named in full.
        config = config.model_copy(update={"teacher": model_name(config.teacher)})
        decides = {"teacher": fingerprint, **config.model_dump(include=_DECIDES), "on_gpu": config.on_gpu}
        job = MiningJob.begin(config.out, plan, decides)
    arguments = {"config": json.dumps(config.effective()), "fingerprint": fingerprint}
    parts, before = job.run(plan, ScoringWorker, config, arguments, "scoring", report, executor)
    counts: Counter[str] = sum(parts, Counter())
    done = ScoringReport(
        out=config.out,
        teacher=config.teacher,
        examples=found["examples"],
        rows=counts["rows"],
        n_ways=config.n_ways,
        pairs=counts["pairs"],
        cut=counts["cut"],
        positive_first=counts["positive first"],
        short=found["short"],
        short_kept=found["short kept"],
        documents_left_out=found["documents left out"],
        parts=len(parts),
        reused_parts=before,
        skipped=problems,
        seconds=round(time.monotonic() - started, 3),
        versions=library_versions(),
    )
    job.finish(config.out, SCORING_REPORT, done)
    return done


def _read(config: ScoreConfig, problems: list[BadRecord], found: Counter[str]) -> Iterator[dict[str, Any]]:
    """The examples that have enough documents, as rows of `EXAMPLE_SCHEMA`; `found` counts all."""
    for example in read_examples(config.source, config.on_error, problems, config.n_ways):
        found["examples"] += 1
        n = len(example.documents)
        found["documents left out"] += example.documents_left_out
        if n < config.n_ways:
            found["short"] += 1
            if config.short == "skip" or n < 2:
                continue
            found["short kept"] += 1
        ids = example.document_ids
        yield {
            "query_id": example.query_id,
            "query": example.query,
            "document_ids": list(ids) if ids else None,
            "documents": list(example.documents),
        }
