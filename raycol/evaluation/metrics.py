"""Metrics of a run against judgements, computed by trec_eval through ir-measures."""

from __future__ import annotations

from collections.abc import Mapping

import ir_measures
from ir_measures import RR, R, nDCG

from raycol.data.qrels import Qrels

Run = Mapping[str, Mapping[str, float]]

METRICS = {"nDCG@10": nDCG @ 10, "R@10": R @ 10, "R@100": R @ 100, "RR@10": RR @ 10}

# Hits per query; every metric above needs at most this many.
DEPTH = 100


def score_run(qrels: Qrels, run: Run) -> dict[str, float]:
    """Return the mean of each metric over the judged queries; a query without hits counts as zero.

    Args:
        qrels: grades by query and passage id.
        run: scores by query and passage id.
    """
    judged_run = {query_id: dict(run.get(query_id, {})) for query_id in qrels}
    means = ir_measures.calc_aggregate(list(METRICS.values()), qrels, judged_run)
    return {name: float(means[measure]) for name, measure in METRICS.items()}
