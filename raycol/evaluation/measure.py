"""`raycol evaluate`: measure systems on test collections, and compare them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from raycol.core.progress import Report, no_report
from raycol.data.collections import find_collections
from raycol.distributed.executor import Executor
from raycol.errors import InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.metrics import depth_of, parse_metrics, score_queries
from raycol.evaluation.output import PICTURES, QUERIES, REPORT, publish, queries_table, report_of, run_name
from raycol.evaluation.pictures import draw
from raycol.evaluation.query_differences import best_hits, query_differences
from raycol.evaluation.result import Evaluation, QueryDifference, SystemResult, combine, summarise
from raycol.evaluation.stages import CollectionSearch
from raycol.evaluation.systems import System, parse_systems
from raycol.evaluation.top_hits import Hits
from raycol.evaluation.trec import run_lines
from raycol.storage import Store, open_store
from raycol.storage.unfinished import unfinished_store


def evaluate(config: EvaluateConfig, report: Report = no_report, executor: Executor | None = None) -> Evaluation:
    """Run every system on every collection, measure it, and compare it with the baseline.

    Args:
        config: the settings.
        report: receives the progress.
        executor: runs exact scoring; by default `choose_executor` chooses.

    Raises:
        InputError: a collection, system, metric or file that cannot be used; nothing is written.
    """
    if not config.specs:
        raise InputError("nothing to evaluate: pass `model=`, `index=` or `system=`")
    systems = parse_systems(config.specs)
    baseline = _baseline(systems, config.baseline)
    metrics = parse_metrics(config.metrics)
    depth = config.depth or depth_of(metrics)
    references = [reference for name in config.data for reference in find_collections(name, config.split)]
    _check_names([reference.name for reference in references])
    results: list[SystemResult] = []
    differing: list[QueryDifference] = []
    runs: dict[str, bytes] = {}
    with _workspace(config.out) as store:
        for reference in references:
            report(0, None, f"reading {reference.name}")
            collection = reference.open()
            search = CollectionSearch(collection, config, store, report, executor)
            best: dict[str, dict[str, Hits]] = {}
            for system in systems:
                found = search.run(system.for_collection(collection.name), depth)
                run = {query: dict(hits) for query, hits in zip(collection.queries, found.hits, strict=True)}
                if config.save_runs:
                    name = run_name(collection.name, system.name)
                    runs[name] = "".join(run_lines(run, system.name, name)).encode()
                per_query = score_queries(collection.qrels, run, metrics)
                results.append(summarise(search, system, found, per_query, config))
                best[system.name] = best_hits(collection, found.hits)
            differing += query_differences(collection, results[-len(systems) :], baseline.name, best)
        evaluation = combine(results, baseline.name, config, differing)
        if config.out:
            report(0, None, "writing the report")
            timed = [one.name for one in systems if all(stage.kind != "run" for stage in one.stages)]
            pictures = {f"{PICTURES}/{name}": content for name, content in draw(evaluation, timed).items()}
            report_ = report_of(evaluation, config.effective())
            files = {**runs, **pictures, QUERIES: queries_table(evaluation), REPORT: report_}
            publish(store, config.out, files)
    return evaluation


def _baseline(systems: list[System], name: str | None) -> System:
    found = next((system for system in systems if name in (None, system.name)), None)
    if found is None:
        raise InputError(
            f"baseline {name!r}: no such system; expected one of {', '.join(system.name for system in systems)}"
        )
    return found


def _check_names(names: list[str]) -> None:
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"collection {repeated!r} is named twice; name each once")


@contextmanager
def _workspace(out: str | None) -> Iterator[Store]:
    """Yield the store of unfinished work: beside `out`, where a repeated command finds it, or a temporary folder."""
    if out:
        with unfinished_store(out, lambda names: REPORT in names) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="raycol-evaluation-") as folder:
        yield open_store(folder)
