"""Metrics of a run against judgements, by ir-measures over trec_eval's own code."""

from __future__ import annotations

from collections.abc import Mapping

import ir_measures
from ir_measures import RR, R, nDCG

from raycol.data.beir import Qrels

Run = Mapping[str, Mapping[str, float]]

METRICS = {"nDCG@10": nDCG @ 10, "R@10": R @ 10, "R@100": R @ 100, "RR@10": RR @ 10}

# Deep enough for every metric above.
DEPTH = 100


def score_run(qrels: Qrels, run: Run) -> dict[str, float]:
    """Mean of each metric over the judged queries; a query with no hits counts as zero.

    Args:
        qrels: grades by query and passage id.
        run: scores by query and passage id.
    """
    wanted = {query_id: dict(run.get(query_id, {})) for query_id in qrels}
    means = ir_measures.calc_aggregate(list(METRICS.values()), qrels, wanted)
    return {name: float(means[measure]) for name, measure in METRICS.items()}
