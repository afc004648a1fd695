"""`raycol mine`: mine hard negatives of training queries from an index and other systems, on Ray Data.

Each row of the Ray Dataset is a part of the queries; a worker searches the index, chooses negatives, and writes a
Parquet file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import xxhash

from raycol.core.progress import Report, no_report
from raycol.data import BadRecord
from raycol.data.beir import other_qrels
from raycol.data.examples import read_examples
from raycol.data.qrels import read_qrels
from raycol.data.sources import ExampleSource, OpenSource
from raycol.distributed.executor import Executor
from raycol.errors import InputError
from raycol.index import Index
from raycol.indexing.report import library_versions
from raycol.indexing.source import model_name
from raycol.mining.config import MineConfig
from raycol.mining.cross_encoder import cross_encoder_fingerprint, load_cross_encoder, probe_cross_encoder
from raycol.mining.job import MiningPlan, begin_job, is_complete, total_counts
from raycol.mining.part import LEFT_OUT, MINED_BY, SHORT
from raycol.mining.queries import (
    QUERY_SCHEMA,
    TrainingQuery,
    exclude_judged,
    exclude_relevant,
    group_queries,
    to_row,
    with_positives,
)
from raycol.mining.report import MINING_REPORT, MiningReport, format_counts
from raycol.mining.searches import search_systems
from raycol.mining.texts import CorpusTexts, write_texts
from raycol.mining.workers import MiningWorker
from raycol.models.discovery import find_checkpoint
from raycol.storage import absolute
from raycol.storage.unfinished import unfinished_store

_TEXTS = "texts.sqlite"
# Settings that decide the result; the fingerprint covers them.
_RESULT_SETTINGS = {
    "from_rank", "to_rank", "margin", "relative_margin", "max_score", "min_score", "negatives", "sampling", "pool",
    "short", "cross_encoder_margin", "max_length", "batch_size", "queries_per_part", "seed", "dtype",
}  # fmt: skip


def mine_negatives(config: MineConfig, report: Report = no_report, executor: Executor | None = None) -> MiningReport:
    """Mine hard negatives; resume if the same command was interrupted.

    `executor` runs the workers; by default `choose_executor` decides.

    Raises:
        InputError: `out` exists, or a different command is unfinished there; the index is missing or has no texts;
            queries or models are unusable; or no query has negatives.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started = time.monotonic()
    problems: list[BadRecord] = []
    with unfinished_store(config.out, is_complete) as store:
        index = Index.open(config.index, config.version) if config.mines_index else None
        beir = OpenSource(config.source, config.on_error, None).beir
        stores_texts = _stores_texts(config, index)
        corpus = None if stores_texts and not config.searched else _find_corpus(config, beir)
        config = _resolve(config, index)
        with store.workspace(0) as folder:
            plan = MiningPlan(folder)
            queries = _read_queries(config, beir, problems)
            texts = write_texts(plan.folder / _TEXTS, corpus, config.on_error, problems) if corpus else None
            report(0, None, "loading the model")
            encoder, cross_encoder = _open_models(config, index)
            if config.searched and corpus:
                search_systems(queries, config.searched, corpus, config, store, report, executor)
                _check_known(config, queries, plan.folder / _TEXTS)
            plan.add(map(to_row, queries), QUERY_SCHEMA, config.queries_per_part)
            settings = {
                "index": xxhash.xxh3_64_hexdigest(index.manifest.model_dump_json().encode()) if index else None,
                "version": index.version if index else None,
                "model": encoder,
                "cross_encoder": cross_encoder,
                "corpus": texts,
                "on_gpu": config.on_gpu,
                **config.model_dump(include=_RESULT_SETTINGS),
            }
            if config.searched:
                settings["system"] = [asdict(replace(mined, system=None)) for mined in config.systems]
            job = begin_job(store, config.out, plan, settings)
        arguments = {
            "config": config,
            "fingerprint": encoder,
            "cross_encoder": cross_encoder,
            "corpus": _TEXTS if texts else None,
            "stores_texts": stores_texts,
        }
        parts, reused = job.run(plan, MiningWorker, config, arguments, "mining", report, executor)
        outcome = _report(config, total_counts(parts), len(parts), reused, problems, time.monotonic() - started)
        if not outcome.rows:
            job.discard()
            required = "a negative" if config.short == "keep" else f"{outcome.wanted} negatives"
            raise InputError(
                f"{config.data}: none of {outcome.queries} queries has {required} (by the reason that rejected most "
                f"of their hits: {format_counts(outcome.short)}); raise `to_rank=`, or relax the bounds"
            )
        job.publish(config.out, parts, MINING_REPORT, outcome)
    return outcome


def _report(
    config: MineConfig, counts: Counter[str], parts: int, reused: int, problems: list[BadRecord], seconds: float
) -> MiningReport:
    return MiningReport(
        out=config.out,
        index=config.index if config.mines_index else None,
        version=config.version,
        wanted=config.negatives,
        short=_by_reason(counts, SHORT),
        short_kept=counts["short kept"],
        left_out=_by_reason(counts, LEFT_OUT),
        mined_by=_by_reason(counts, MINED_BY),
        positives_encoded=counts["positives encoded"],
        pairs_scored=counts["pairs scored"],
        **{name: counts[name] for name in ("queries", "pairs", "rows", "negatives", "hits")},
        parts=parts,
        reused_parts=reused,
        skipped=problems,
        seconds=round(seconds, 3),
        versions=library_versions(),
    )


def _by_reason(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): n for name, n in sorted(counts.items()) if name.startswith(prefix)}


def _read_queries(config: MineConfig, beir: bool, problems: list[BadRecord]) -> list[TrainingQuery]:
    """Read the queries, and what is judged relevant to them elsewhere."""

    def read(source: ExampleSource) -> list[TrainingQuery]:
        examples = read_examples(source, config.on_error, problems)
        return group_queries(with_positives(examples, config.on_error, problems))

    queries = read(config.source)
    if beir:
        for qrels in other_qrels(config.data, config.split or "train"):
            exclude_relevant(queries, read_qrels(qrels, []))
    for location in config.judged:
        exclude_judged(queries, read(ExampleSource(path=location)))
    return queries


def _check_known(config: MineConfig, queries: Sequence[TrainingQuery], texts: Path) -> None:
    """Refuse hits that are not in the corpus. Raises `InputError` for the first one."""
    names = [mined.name for mined in config.systems if mined.system]
    for number, name in enumerate(names):
        CorpusTexts(texts, name)(list({id_: None for query in queries for id_, _ in query.hits[number]}))


def _stores_texts(config: MineConfig, index: Index | None) -> bool:
    """Whether the texts of the index come from the index. Raises `InputError` for passages whose texts it lacks."""
    if index is None:
        return False
    if "text" in index.manifest.columns and (config.corpus is None or config.searched):
        return True
    if index.manifest.split:
        raise InputError(
            f"{config.index}: its documents were split, so negatives are passages, and only the index can store their "
            "texts; rebuild it with `store_text=True`, and omit `corpus=`"
        )
    return False


def _find_corpus(config: MineConfig, beir: bool) -> str:
    """Return the corpus to search, or to read texts from. Raises `InputError` if there is none."""
    if config.corpus is None and not beir and config.searched:
        raise InputError(f"{config.searched[0][0].name}: searches a corpus; pass it with `corpus=`")
    if config.corpus is None and not beir:
        raise InputError(
            f"{config.index}: stores no texts, which negatives need; pass the corpus that the index was built from "
            "with `corpus=`"
        )
    return config.corpus or config.data


def _resolve(config: MineConfig, index: Index | None) -> MineConfig:
    """Make paths absolute, since workers run elsewhere, and fill in the model. Raises `InputError` without one."""
    models = {"cross_encoder": config.cross_encoder}
    values: dict[str, Any] = {}
    if index is not None:
        recorded = index.manifest.model
        models["model"] = config.model or (recorded.name if recorded else None)
        if models["model"] is None:
            raise InputError(f"{config.index}: does not record the model it was built with; pass `model=`")
        values = {"index": absolute(config.index), "version": index.version}
    for model in filter(None, models.values()):
        find_checkpoint(model)
    names = {setting: model_name(model) if model else None for setting, model in models.items()}
    return config.model_copy(update={**values, **names})


def _open_models(config: MineConfig, index: Index | None) -> tuple[str | None, str | None]:
    """Return the fingerprints of the encoder and the cross-encoder, if any. Raises `InputError` for bad models."""
    fingerprint = _open_encoder(config, index) if index else None
    cross_encoder = None
    if config.cross_encoder:
        model = load_cross_encoder(config.cross_encoder, device="cpu", max_length=config.max_length)
        probe_cross_encoder(model, config.cross_encoder)
        cross_encoder = cross_encoder_fingerprint(model)
    return fingerprint, cross_encoder


def _open_encoder(config: MineConfig, index: Index) -> str:
    # Importing torch takes seconds, so other input is checked first.
    from raycol.models.encoder import encoder_fingerprint, load_index_encoder

    encoder = load_index_encoder(index.manifest.model, config.model, device="cpu")
    if (dim := encoder.get_embedding_dimension()) != index.manifest.dim:
        raise InputError(
            f"model {config.model!r} has embeddings of {dim} dimensions; the index has {index.manifest.dim}; pass the "
            "model that the index was built with"
        )
    return encoder_fingerprint(encoder)
