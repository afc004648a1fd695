"""Metrics of a run against judgements, computed by trec_eval through ir-measures.

Metrics have ir-measures' names: `nDCG@10`, `AP(rel=2)`, `Judged@10`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import fsum

import ir_measures
from ir_measures import RR, Measure, R, nDCG
from ir_measures.providers import FallbackProvider

from raycol.data.qrels import Qrels
from raycol.errors import InputError
from raycol.evaluation.trec import Run, ranking

DEFAULT_METRICS: dict[str, Measure] = {str(each): each for each in (nDCG @ 10, R @ 10, R @ 100, RR @ 10)}

# Depth of metrics without a cutoff, such as AP: that of TREC's runs.
_FULL_DEPTH = 1000
_NAME = re.compile(r"(\w+)(\(.*\))?(?:@(.+))?", re.DOTALL)
# All of ir-measures' providers that need only judgements and ranks, except gdeval, a Perl script that requires numbers
# as ids, and ranx. The first that supports a metric computes it.
_PROVIDERS = FallbackProvider(
    [ir_measures.pytrec_eval, ir_measures.cwl_eval, ir_measures.compat, ir_measures.judged, ir_measures.msmarco,
     ir_measures.accuracy]
)  # fmt: skip


def parse_metrics(names: Iterable[str]) -> dict[str, Measure]:
    """Return metrics by the names that ir-measures prints, in order and without repetitions; `MRR@10` becomes `RR@10`.

    Raises:
        InputError: there is no such metric, or its parameters or cutoff are invalid.
    """
    metrics = [_parse(name.strip()) for name in names]
    return {str(metric): metric for metric in metrics}


def _parse(name: str) -> Measure:
    # ir_measures.parse_measure uses classes that Python 3.14's ast does not have.
    match = _NAME.fullmatch(name)
    kind = ir_measures.measures.registry.get(match[1]) if match else None
    if match is None or kind is None:
        raise InputError(f"{name!r:.60}: no such metric; {_suggestion(name)}")
    try:
        call = ast.parse(f"f{match[2] or '()'}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("parameters have names")
        parameters = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        if match[3]:
            parameters[kind.AT_PARAM] = ast.literal_eval(match[3])
        metric = kind(**parameters)
        metric.validate_params()
        cutoff = parameters.get("cutoff", 1)
        if isinstance(cutoff, bool) or not 1 <= cutoff <= 1_000_000:
            raise ValueError("cutoff from 1 to 1,000,000")
        supported = _PROVIDERS.supports(metric)
    except (AssertionError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        known = ", ".join(kind.SUPPORTED_PARAMS)
        raise InputError(
            f"{name!r:.60}: invalid parameters; {match[1]} takes {known}, written as in nDCG@10 or P(rel=2)@5"
        ) from None
    if not supported:
        raise InputError(f"{name!r:.60}: cannot be computed from graded judgements and ranks; choose another metric")
    return metric


def _suggestion(name: str) -> str:
    kind = re.split(r"[(@]", name)[0]
    known = {alias.lower(): metric.__name__ for alias, metric in ir_measures.measures.registry.items()}
    nearest = get_close_matches(kind.lower(), known, n=1, cutoff=0.5)
    if not nearest:
        return "expected a name of ir-measures, such as nDCG@10"
    return f"did you mean {known[nearest[0]]}{''.join(name[len(kind) :].split()):.60}?"


def depth_of(metrics: Mapping[str, Measure]) -> int:
    """Return how many hits of a query the metrics need: the largest cutoff, or 1000 if a metric has none."""
    return max(
        (
            # Without the unjudged documents, the first k can be at any rank.
            _FULL_DEPTH if metric.params.get("judged_only") else metric.params.get("cutoff", _FULL_DEPTH)
            for metric in metrics.values()
        ),
        default=_FULL_DEPTH,
    )


# Hits per query that the default metrics need.
DEPTH = depth_of(DEFAULT_METRICS)


def score_queries(
    qrels: Qrels, run: Run, metrics: Mapping[str, Measure] = DEFAULT_METRICS
) -> dict[str, dict[str, float]]:
    """Return each metric's value by query id, in the order of the judgements.

    Every judged query has a value, 0.0 if it has no hits; other queries of the run are ignored.

    Args:
        qrels: grades by query and document id.
        run: finite scores by query and document id.
        metrics: by name.
    """
    # trec_eval breaks ties differently than ir-measures' own code does. Ranks in place of scores have no ties.
    ranks = {
        query_id: {id_: -rank for rank, id_ in enumerate(ranking(run[query_id]))}
        for query_id in qrels
        if run.get(query_id)
    }
    name_of = {metric: name for name, metric in metrics.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in metrics}
    # trec_eval counts documents with negative grades as unjudged, but corrupts its memory on some of them and on
    # queries without hits, which therefore never reach it.
    judged = {
        query_id: {id_: grade for id_, grade in grades.items() if grade >= 0} for query_id, grades in qrels.items()
    }
    is_judged = {metric: metric.NAME == "Judged" for metric in name_of}  # the share of hits with any grade
    for grades, selected in ((judged, False), (qrels, True)):
        if chosen := [metric for metric in name_of if is_judged[metric] == selected]:
            for query_id, metric, value in _PROVIDERS.iter_calc(chosen, grades, ranks):
                values[name_of[metric]][query_id] = float(value)
    return values


def score_run(qrels: Qrels, run: Run, metrics: Mapping[str, Measure] = DEFAULT_METRICS) -> dict[str, float]:
    """Return the mean of each metric over the judged queries; see `score_queries`."""
    return {
        name: fsum(values.values()) / len(qrels) if qrels else 0.0
        for name, values in score_queries(qrels, run, metrics).items()
    }
