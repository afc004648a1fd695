"""Scores of earlier jobs, which need not be computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq
import xxhash

from raycol.data import BadRecord
from raycol.data.corpus import OnError
from raycol.data.examples import ExampleSource, read_examples
from raycol.data.files import HUB
from raycol.errors import InputError
from raycol.mining.report import SCORING_REPORT, ScoringReport
from raycol.storage import open_store

_MAX_REPORT_BYTES = 64 << 20  # it lists unusable records
# A query, a document, and the score of each teacher, None if the file lacks it.
_Scored = tuple[str, str, Sequence[float | None]]


class KnownScores:
    """Scores by query and document text, in memory: about 150 bytes each.

    Args:
        locations: results of `raycol score`, whose report says which teachers scored them; or other examples with
            scores, if there is one teacher, which is taken to be theirs. The first one that has a score counts.
        fingerprints: of the teachers.
        on_error: what to do with unusable records of other examples.
        problems: receives the skipped records.

    Raises:
        InputError: a location cannot be read, has no scores, or has none of these teachers.
    """

    def __init__(
        self, locations: Sequence[str], fingerprints: Sequence[str], on_error: OnError, problems: list[BadRecord]
    ) -> None:
        self._scores: list[dict[bytes, float]] = [{} for _ in fingerprints]
        for location in locations:
            report = _report_of(location)
            rows = (
                _read_result(location, report, fingerprints)
                if report
                else _read_examples(location, len(fingerprints), on_error, problems)
            )
            for query, document, scores in rows:
                key = _key(query, document)
                for known, score in zip(self._scores, scores, strict=True):
                    if score is not None:
                        known.setdefault(key, score)

    def of(self, query: str, documents: Sequence[str]) -> list[list[float | None]]:
        """Return the known scores [teacher][document]."""
        keys = [_key(query, document) for document in documents]
        return [[known.get(key) for key in keys] for known in self._scores]


def _key(query: str, document: str) -> bytes:
    return xxhash.xxh3_128_digest(f"{len(query)} {query} {document}".encode("utf-8", "surrogatepass"))


def _report_of(location: str) -> ScoringReport | None:
    """The report of a result of `raycol score` that names its teachers; None for anything else."""
    if location.startswith(HUB):
        return None
    try:
        report = ScoringReport.model_validate_json(open_store(location).read(SCORING_REPORT, _MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return None
    return report if report.fingerprints else None


def _read_result(location: str, report: ScoringReport, fingerprints: Sequence[str]) -> Iterator[_Scored]:
    positions = [report.fingerprints.index(each) if each in report.fingerprints else None for each in fingerprints]
    if positions == [None] * len(positions):
        raise InputError(
            f"{location}: scored by {report.teacher}, which is none of the teachers, or has other weights or another "
            "`max_length=`; leave it out of `reuse=`"
        )
    store = open_store(location)
    for name in sorted(name for name in store.names("") if name.endswith(".parquet")):
        with store.open(name) as file:
            for batch in pq.ParquetFile(file).iter_batches():
                for row in batch.to_pylist():
                    by_teacher = row.get("teacher_scores") or [row["scores"]]
                    for number, document in enumerate(row["documents"]):
                        scores = [None if at is None else by_teacher[at][number] for at in positions]
                        yield row["query"], document, scores


def _read_examples(location: str, teachers: int, on_error: OnError, problems: list[BadRecord]) -> Iterator[_Scored]:
    if teachers > 1:
        raise InputError(
            f"{location}: does not say which teacher scored it, and there are {teachers}; expected a result of "
            "`raycol score`"
        )
    for example in read_examples(ExampleSource(path=location), on_error, problems):
        if example.scores is None:
            raise InputError(f"{example.where}: has no scores to reuse")
        for document, score in zip(example.documents, example.scores, strict=True):
            yield example.query, document, [score]
