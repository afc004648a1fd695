"""Reports of mining and scoring, saved as JSON beside the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from raycol.core.shown import Shown
from raycol.data import BadRecord

MINING_REPORT = "mining-report.json"
SCORING_REPORT = "scoring-report.json"

# How messages word the reasons for excluding a hit.
_PHRASES = {
    "positive": "relevant to the query",
    "margin": "within `margin=` of the positive",
    "relative_margin": "within `relative_margin=` of the positive",
    "cross_encoder": "within `cross_encoder_margin=` of the positive",
    "max_score": "above `max_score=`",
    "min_score": "below `min_score=`",
    "no_text": "without text",
    "text_of_positive": "with the text of a positive",
    "text_of_query": "with the text of the query",
    "repeated_text": "with a repeated text",
    "few hits": "with too few hits",
}


class MiningReport(Shown, BaseModel):
    """Report of `raycol mine`.

    Args:
        out: folder or URI of the results.
        index, version: the index that negatives come from; None without one.
        queries: queries with distinct texts.
        pairs: pairs of a query and a positive.
        rows: pairs that got negatives.
        negatives: negatives of all rows together.
        wanted: negatives requested per query.
        short: queries with fewer negatives, by the reason that rejected most of their hits.
        short_kept: short queries that were kept.
        hits: hits of all queries in the window of ranks.
        left_out: rejected hits by reason; hits that were never tried count under none.
        mined_by: negatives of all rows by system; empty if all come from the index.
        positives_encoded: positives that the index lacks, which were encoded to be scored.
        pairs_scored: pairs scored by the cross-encoder.
        parts, reused_parts: parts of the job, and those that an interrupted run had finished.
        skipped: unusable records.
        seconds: wall-clock time of this run; interrupted runs do not count.
        versions: of raycol, Python and the main libraries.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("out", "queries", "pairs", "rows", "negatives", "seconds")

    out: str
    index: str | None
    version: int | None
    queries: int
    pairs: int
    rows: int
    negatives: int
    wanted: int
    short: dict[str, int]
    short_kept: int
    hits: int
    left_out: dict[str, int]
    mined_by: dict[str, int] = {}
    positives_encoded: int
    pairs_scored: int
    parts: int
    reused_parts: int
    skipped: list[BadRecord]
    seconds: float
    versions: dict[str, str]


class ScoringReport(Shown, BaseModel):
    """Report of `raycol score`.

    Args:
        out: folder or URI of the results.
        teacher: the teachers.
        fingerprints: of each teacher.
        examples: examples read.
        rows: examples scored.
        n_ways: documents requested per example.
        pairs: pairs of a query and a document scored.
        reused: scores that were known.
        cut: pairs longer than a teacher's maximum length.
        positive_first: rows whose positive has the highest score.
        short: examples with fewer documents than `n_ways`.
        short_kept: short examples that were kept.
        documents_left_out: documents beyond `n_ways`.
        parts, reused_parts: parts of the job, and those that an interrupted run had finished.
        skipped: unusable records.
        seconds: wall-clock time of this run; interrupted runs do not count.
        versions: of raycol, Python and the main libraries.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("out", "teacher", "examples", "rows", "pairs", "seconds")

    out: str
    teacher: str
    fingerprints: list[str] = []
    examples: int
    rows: int
    n_ways: int
    pairs: int
    reused: int = 0
    cut: int
    positive_first: int
    short: int
    short_kept: int
    documents_left_out: int
    parts: int
    reused_parts: int
    skipped: list[BadRecord]
    seconds: float
    versions: dict[str, str]


def format_counts(reasons: Mapping[str, int]) -> str:
    """Format counts by reason, the largest first: "64 relevant to the query, 14 above `max_score=`"."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {_PHRASES.get(reason, reason)}" for reason, n in ordered)
