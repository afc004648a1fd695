"""The files of an evaluation: its report, the metrics of each query, pictures and runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from raycol.errors import writing
from raycol.evaluation.result import Evaluation
from raycol.indexing.report import library_versions
from raycol.storage import Store, open_store
from raycol.storage.checked_files import fsync_folder

REPORT = "evaluation.json"
QUERIES = "queries.parquet"
PICTURES = "pictures"
"""Folder of the pictures."""
_RESULT = "result"


def publish(store: Store, out: str, files: Mapping[str, bytes]) -> None:
    """Write files to `out`, which appear at once in a local folder; in an object store, the last one comes last.

    Args:
        store: of the unfinished work, which is deleted.
        out: path or URI of the result.
        files: contents by name.
    """
    target = open_store(out)
    if target.is_local:
        for name, content in files.items():
            store.write(f"{_RESULT}/{name}", content)
        with writing(out):
            os.rename(store.location(_RESULT), target.uri)
            fsync_folder(Path(target.uri).absolute().parent)
    else:
        for name, content in files.items():
            target.write(name, content)
    with suppress(OSError):  # a worker that is about to end may have a file open, which NFS keeps
        store.clear()


def run_name(collection: str, system: str) -> str:
    """Name of the run file of a system on a collection."""
    return f"runs/{_file_name(collection)}/{_file_name(system)}.trec"


def _file_name(name: str) -> str:
    """A name without characters that a path gives a meaning to; distinct names stay distinct."""
    return quote(name, safe="+=,@ ").lstrip(".") or "_"


def queries_table(evaluation: Evaluation) -> bytes:
    """Return the metrics of each query as Parquet: collection, system, query, metric, value."""
    rows = [
        (result.collection, result.system, query, metric, value)
        for result in evaluation.results
        for metric, values in result.per_query.items()
        for query, value in values.items()
    ]
    columns = list(zip(*rows, strict=True))
    names = ("collection", "system", "query", "metric")
    table = pa.table(
        {
            **{name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=False)},
            "value": pa.array(columns[-1], pa.float64()),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def report_of(evaluation: Evaluation, settings: Mapping[str, Any]) -> bytes:
    """Return the report as JSON: versions, settings, results and differences; not the metrics of each query."""
    results = [asdict(replace(result, per_query={})) for result in evaluation.results]
    content = {
        "versions": library_versions(),
        "settings": settings,
        "baseline": evaluation.baseline,
        "results": [{name: value for name, value in one.items() if name != "per_query"} for one in results],
        "averages": {
            system: {metric: asdict(mean) for metric, mean in means.items()}
            for system, means in evaluation.averages.items()
        },
        "differences": [asdict(difference) for difference in evaluation.differences],
        "largest_differences": [asdict(difference) for difference in evaluation.largest_differences],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str).encode()
