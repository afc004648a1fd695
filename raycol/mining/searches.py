"""Search a corpus for the training queries with the systems of `raycol evaluate`, before the workers start."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raycol.core.progress import Report
from raycol.data.collection import Collection
from raycol.data.locations import corpus_files
from raycol.distributed.executor import Executor, ModelWorkersConfig
from raycol.errors import InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.stages import CollectionSearch
from raycol.evaluation.systems import Stage, System
from raycol.evaluation.trec import read_run, write_run
from raycol.mining.config import MineConfig
from raycol.mining.queries import TrainingQuery
from raycol.storage import Store


def search_systems(
    queries: Sequence[TrainingQuery],
    systems: Sequence[tuple[System, int]],
    corpus: str,
    config: MineConfig,
    store: Store,
    report: Report,
    executor: Executor | None,
) -> None:
    """Append the hits of each system to each query.

    Memory: the hits of all queries, and the whole corpus for BM25. Exact scoring is a job of its own on the workers,
    which the same command resumes.

    Args:
        queries: the queries, which receive the hits.
        systems: each with its number of hits.
        corpus: what they search.
        config: workers and batch sizes.
        store: of the unfinished job.
        report: receives the progress.
        executor: runs exact scoring; None leaves it to `choose_executor`.

    Raises:
        InputError: a model, index, endpoint or run file that cannot be used on the corpus.
    """
    texts = {str(number): query.text for number, query in enumerate(queries)}
    collection = Collection(corpus, tuple(corpus_files(corpus)), texts, {})
    search = CollectionSearch(collection, _evaluation(config, corpus), store, report, executor)
    with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
        for number, (system, depth) in enumerate(systems):
            system = _renumbered(system, queries, Path(folder) / f"{number}.trec")
            for query, hits in zip(queries, search.run(system, depth).hits, strict=True):
                query.hits.append(hits)


def _evaluation(config: MineConfig, corpus: str) -> EvaluateConfig:
    workers = {name: getattr(config, name) for name in ModelWorkersConfig.model_fields}
    device = None if config.on_gpu else "cpu"
    return EvaluateConfig(data=corpus, out=config.out, device=device, on_error=config.on_error, **workers)


def _renumbered(system: System, queries: Sequence[TrainingQuery], path: Path) -> System:
    """Return a system over a run file whose queries are the numbers of ours, written to `path`; others unchanged."""
    if system.first.kind != "run":
        return system
    run = read_run(system.first.target)
    ids = [[positive.query_id or "" for positive in query.positives] for query in queries]
    hits = {str(number): next((run[id_] for id_ in known if id_ in run), {}) for number, known in enumerate(ids)}
    if not any(hits.values()):
        raise InputError(
            f"{system.first.target}: has no hits of any query, such as {queries[0].text[:60]!r} "
            f"(id {ids[0][0] or 'none'!r:.60}); expected a run over the ids of the training queries"
        )
    write_run(path, hits, system.name)
    return replace(system, first=Stage("run", str(path), system.first.settings))
