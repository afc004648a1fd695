"""`raycol score`: score the documents of training examples with teachers, on Ray Data.

Each row of the Ray Dataset is a part of the examples; a worker scores it and writes a Parquet file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from raycol.core.progress import Report, no_report
from raycol.data import BadRecord
from raycol.data.examples import read_examples
from raycol.distributed.executor import Executor
from raycol.errors import InputError
from raycol.indexing.report import library_versions
from raycol.indexing.source import model_name
from raycol.mining.config import ScoreConfig
from raycol.mining.cross_encoder import cross_encoder_fingerprint, load_cross_encoder, probe_cross_encoder
from raycol.mining.job import MiningPlan, begin_job, is_complete, total_counts
from raycol.mining.known import KnownScores
from raycol.mining.report import SCORING_REPORT, ScoringReport
from raycol.mining.scoring import EXAMPLE_SCHEMA, KNOWN_SCHEMA
from raycol.mining.workers import ScoringWorker
from raycol.models.discovery import find_checkpoint
from raycol.storage.unfinished import unfinished_store

# Settings that decide the result; the fingerprint covers them.
_RESULT_SETTINGS = {"n_ways", "short", "max_length", "batch_size", "queries_per_part", "dtype"}


def score_examples(config: ScoreConfig, report: Report = no_report, executor: Executor | None = None) -> ScoringReport:
    """Score examples; resume if the same command was interrupted.

    `executor` runs the workers; by default `choose_executor` decides.

    Raises:
        InputError: `out` exists, or a different command is unfinished there; examples or teacher are unusable; or no
            example has enough documents.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started = time.monotonic()
    problems: list[BadRecord] = []
    example_counts: Counter[str] = Counter()
    with unfinished_store(config.out, is_complete) as store:
        for name in config.teacher:
            find_checkpoint(name)
        with store.workspace(0) as folder:
            plan = MiningPlan(folder)
            examples = _read(config, problems, example_counts)
            if not config.reuse:
                _add(plan, examples, EXAMPLE_SCHEMA, config, example_counts)
            report(0, None, "loading the model")
            # Importing torch takes seconds, so other input is checked first, unless the fingerprints decide about it.
            fingerprints = [_fingerprint(name, config.max_length) for name in config.teacher]
            if config.reuse:
                known = KnownScores(config.reuse, fingerprints, config.on_error, problems)
                rows = ({**row, "known": known.of(row["query"], row["documents"])} for row in examples)
                _add(plan, rows, KNOWN_SCHEMA, config, example_counts)
            # Workers run in other directories, so paths are made absolute.
            config = config.model_copy(update={"teacher": tuple(map(model_name, config.teacher))})
            settings = {
                "teacher": fingerprints,
                "teacher_weights": config.weights,
                "normalize": config.normalization,
                **config.model_dump(include=_RESULT_SETTINGS),
                "on_gpu": config.on_gpu,
            }
            job = begin_job(store, config.out, plan, settings)
        arguments = {"config": config, "fingerprints": fingerprints}
        parts, reused = job.run(plan, ScoringWorker, config, arguments, "scoring", report, executor)
        counts = total_counts(parts)
        outcome = ScoringReport(
            out=config.out,
            teacher=", ".join(config.teacher),
            fingerprints=fingerprints,
            examples=example_counts["examples"],
            rows=counts["rows"],
            n_ways=config.n_ways,
            pairs=counts["pairs"],
            reused=counts["reused"],
            cut=counts["cut"],
            positive_first=counts["positive first"],
            short=example_counts["short"],
            short_kept=example_counts["short kept"],
            documents_left_out=example_counts["documents left out"],
            parts=len(parts),
            reused_parts=reused,
            skipped=problems,
            seconds=round(time.monotonic() - started, 3),
            versions=library_versions(),
        )
        job.publish(config.out, parts, SCORING_REPORT, outcome)
    return outcome


def _add(
    plan: MiningPlan, rows: Iterable[dict[str, Any]], schema: pa.Schema, config: ScoreConfig, counts: Counter[str]
) -> None:
    """Write the inputs. Raises `InputError` if no example has enough documents."""
    plan.add(rows, schema, config.queries_per_part)
    if not plan.sizes:
        raise InputError(
            f"{config.data}: none of {counts['examples']} examples has "
            f"{2 if config.short == 'keep' else config.n_ways} documents; lower `n_ways=`"
        )


def _fingerprint(name: str, max_length: int | None) -> str:
    """Open and check a teacher before workers do; return its fingerprint."""
    teacher = load_cross_encoder(name, device="cpu", max_length=max_length)
    probe_cross_encoder(teacher, name)
    return cross_encoder_fingerprint(teacher)


def _read(config: ScoreConfig, problems: list[BadRecord], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the examples with enough documents as rows of `EXAMPLE_SCHEMA`; `counts` covers all examples."""
    for example in read_examples(config.source, config.on_error, problems, config.n_ways):
        counts["examples"] += 1
        n = len(example.documents)
        counts["documents left out"] += example.documents_left_out
        if n < config.n_ways:
            counts["short"] += 1
            if config.short == "skip" or n < 2:
                continue
            counts["short kept"] += 1
        ids = example.document_ids
        yield {
            "query_id": example.query_id,
            "query": example.query,
            "document_ids": list(ids) if ids else None,
            "documents": list(example.documents),
        }
