"""Runs, the documents that a system returns for each query, in TREC's format and trec_eval's order.

A line of a run file has six columns: query id, `Q0`, document id, rank, score, tag. Like trec_eval, raycol ranks by
the scores and ignores the rank column.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import numpy as np

from raycol.data.corpus import read_id
from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, compression_of, lines_of, open_lines
from raycol.errors import InputError, writing

Run = Mapping[str, Mapping[str, float]]
"""Scores by query and document id; the higher, the better."""

_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Return document ids in trec_eval's order: by descending score, equal scores by descending id.

    trec_eval keeps scores in single precision, so scores that differ by less are equal.
    """
    with np.errstate(over="ignore"):
        single = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32).tolist()
    return [id_ for _, id_ in sorted(zip(single, scores, strict=True), reverse=True)]


def read_run(path: str | Path, queries: Container[str] | None = None) -> dict[str, dict[str, float]]:
    """Read a run file into scores by query and document id.

    Args:
        path: path or URI of the file, compressed or not.
        queries: ids of the collection's queries; None accepts any.

    Raises:
        InputError: the file cannot be read or has no lines, a line has not six columns, its query is not in the
            collection, its score is not a finite number, or its document is repeated.
    """
    run: dict[str, dict[str, float]] = {}
    with open_lines(str(path)) as file:
        for number, (line, _) in enumerate(lines_of(file), start=1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                query_id, document_id, score = _read_line(text)
                if queries is not None and query_id not in queries:
                    raise ValueError(
                        f"query {query_id!r:.60} is not in the collection; expected a run over its queries"
                    )
                hits = run.setdefault(query_id, {})
                if document_id in hits:
                    raise ValueError(f"document {document_id!r:.60} is repeated for query {query_id!r:.60}; keep one")
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            hits[document_id] = score
    if not run:
        raise InputError(f"{path}: no lines; expected a TREC run file")
    return run


def _read_line(line: bytes) -> tuple[str, str, float]:
    """Query id, document id and score. Raises `ValueError` with what is wrong."""
    if len(line) > MAX_RECORD_BYTES:
        raise ValueError(TOO_LARGE)
    columns = line.split()  # at ASCII white space only, as trec_eval does
    if len(columns) != 6:
        raise ValueError(f"{len(columns)} columns; expected TREC's six: query id, Q0, document id, rank, score, tag")
    query_id, document_id = (
        read_id(column.decode("utf-8", "surrogateescape"), f"the {name} id")
        for name, column in (("query", columns[0]), ("document", columns[2]))
    )
    score = float(columns[4]) if _NUMBER.fullmatch(columns[4]) else math.nan
    if not math.isfinite(score):
        raise ValueError(f"the score is {columns[4].decode(errors='replace')!r:.60}; expected a finite number")
    return query_id, document_id, score


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run file, whole or not at all; reading it gives the same scores, without queries that have no hits.

    Args:
        path: the file; an existing one is replaced.
        run: finite scores by query and document id.
        tag: name of the system; white space becomes `_`.

    Raises:
        InputError: the file's name has the suffix of a compression, or the format cannot hold an id or a score.
        RaycolError: the file cannot be written.
    """
    if compression := compression_of(str(path)):
        raise InputError(f"{path}: run files are written without compression; expected a name without {compression}'s")
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(run_lines(run, tag, path))
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def run_lines(run: Run, tag: str, path: str | Path) -> Iterator[str]:
    """Yield the lines of a run file, named `path` in errors; see `write_run`."""
    tag = "_".join(tag.split()) or "raycol"
    for query_id, scores in run.items():
        _check_id(path, query_id)
        for rank, document_id in enumerate(ranking(scores), start=1):
            _check_id(path, document_id)
            score = float(scores[document_id])
            if not math.isfinite(score):
                raise InputError(
                    f"{path}: document {document_id!r:.60} has the score {score}; expected a finite number"
                )
            yield f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n"


def _check_id(path: str | Path, id_: str) -> None:
    if len(id_.encode().split()) != 1 or id_.encode() != id_.encode().strip():
        raise InputError(f"{path}: the id {id_!r:.60} is empty or has white space, which separates TREC's columns")
