"""What mining and scoring did: on the screen, and as JSON beside the results."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from raycol.data import BadRecord

MINING_REPORT = "mining-report.json"
SCORING_REPORT = "scoring-report.json"


class MiningReport(BaseModel):
    """What `raycol mine` did.

    Args:
        out: where the results are.
        index: where negatives are from, and `version` which of its versions.
        queries: queries of different texts.
        pairs: queries with a positive: a query of several has as many.
        rows: pairs that have negatives now.
        negatives: those of all rows.
        wanted: negatives that each query should have.
        short: queries of fewer, by what took most of their hits.
        short_kept: those of them that were kept all the same.
        hits: of all queries, in the window of ranks.
        left_out: hits that are no negatives, by the reason; those that were not needed are in none.
        positives_encoded: positives that the index does not have, and that were encoded to be scored.
        pairs_scored: what the cross-encoder scored.
        parts: files, and `reused_parts` those of them that an interrupted run had finished.
        skipped: records that could not be used.
        seconds: by the clock, without interrupted runs.
        versions: of raycol, Python and the libraries that matter.
    """

    model_config = ConfigDict(frozen=True)

    out: str
    index: str
    version: int
    queries: int
    pairs: int
    rows: int
    negatives: int
    wanted: int
    short: dict[str, int]
    short_kept: int
    hits: int
    left_out: dict[str, int]
    positives_encoded: int
    pairs_scored: int
    parts: int
    reused_parts: int
    skipped: list[BadRecord]
    seconds: float
    versions: dict[str, str]


class ScoringReport(BaseModel):
    """What `raycol score` did.

    Args:
        out: where the results are.
        teacher: what scored.
        examples: examples that were read.
        rows: those that have scores now.
        n_ways: documents that each should have.
        pairs: a query and a document that were scored.
        cut: pairs that are longer than the teacher reads.
        positive_first: rows whose positive has the highest score.
        short: examples of fewer documents than `n_ways`.
        short_kept: those of them that were kept all the same.
        documents_left_out: documents beyond `n_ways`.
        parts: files, and `reused_parts` those of them that an interrupted run had finished.
        skipped: records that could not be used.
        seconds: by the clock, without interrupted runs.
        versions: of raycol, Python and the libraries that matter.
    """

    model_config = ConfigDict(frozen=True)

    out: str
    teacher: str
    examples: int
    rows: int
    n_ways: int
    pairs: int
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
    """Counts by reason, the largest first."""
    return ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
