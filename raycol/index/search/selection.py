"""Masks of the documents that a search may return: live, matched by the filter, and in the set of ids."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.format.columns import Columns
from raycol.index.format.document import check_id
from raycol.index.format.ids import id_hashes
from raycol.index.format.partition import Partition
from raycol.index.search.deadline import check_deadline
from raycol.index.search.filters import Filter, parse_filter

OnUnknown = Literal["ignore", "refuse"]

# Rows per batch: the deadline is checked between batches. A LIKE pattern may take 0.1 s for a single row, so filters
# with patterns start with small batches, which grow while a batch takes less than `_QUICK_BATCH_S`.
_MAX_BATCH_ROWS = 1 << 15
_FIRST_PATTERN_ROWS = 1 << 4
_QUICK_BATCH_S = 0.05


def select(
    partitions: Sequence[Partition],
    columns: Columns,
    filter_: str | None,
    ids: Iterable[str] | None,
    on_unknown: OnUnknown = "ignore",
) -> list[NDArray[np.bool_]]:
    """Return one mask per partition of the documents that a search may return, bool [N].

    Arguments are validated before any partition is read; then each partition is verified, once.

    Raises:
        InputError: an invalid filter, an id that is not a string, or, with `refuse`, one that is not in the index.
        IndexCorruptError: a damaged partition.
    """
    condition = None if filter_ is None else parse_filter(filter_, columns)
    unique_ids = None if ids is None else check_ids(ids)
    check_on_unknown(on_unknown)
    for partition in partitions:
        partition.check()
    allowed = [partition.live_N for partition in partitions]
    if unique_ids is not None:
        positions_of = _locate(partitions, unique_ids, on_unknown)
        allowed = [_mask(live_N, positions) for live_N, positions in zip(allowed, positions_of, strict=True)]
    if condition is not None:
        allowed = [
            allowed_N & _matches(partition, condition) if allowed_N.any() else allowed_N
            for partition, allowed_N in zip(partitions, allowed, strict=True)
        ]
    return allowed


def locate(
    partitions: Sequence[Partition], ids: Iterable[str], on_unknown: OnUnknown = "ignore"
) -> list[NDArray[np.int64]]:
    """Return, per partition, the ascending positions of its live documents among `ids`, int64.

    Raises:
        InputError: an id that is not a string, or, with `refuse`, one that is not in the index.
    """
    unique_ids = check_ids(ids)
    check_on_unknown(on_unknown)
    return _locate(partitions, unique_ids, on_unknown)


def _locate(partitions: Sequence[Partition], ids: list[str], on_unknown: OnUnknown) -> list[NDArray[np.int64]]:
    """Do what `locate` does, for distinct, valid ids."""
    hashes_M = id_hashes(ids)
    unknown_M = np.ones(len(ids), dtype=bool)
    positions_of = []
    for partition in partitions:
        positions_M = partition.find(ids, hashes_M) if ids else np.empty(0, dtype=np.int64)
        unknown_M &= positions_M < 0
        positions_of.append(np.sort(positions_M[positions_M >= 0]))
    if on_unknown == "refuse" and unknown_M.any():
        first = ids[int(unknown_M.argmax())]
        raise InputError(f"document {first!r} is not in the index ({int(unknown_M.sum())} of {len(ids)} ids are not)")
    return positions_of


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return the distinct ids in order. Raises `InputError` unless `ids` is an iterable of valid ids."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"ids is {ids!r:.60}, a {type(ids).__name__}; expected a list of ids")
    return list(dict.fromkeys(map(check_id, ids)))


def check_on_unknown(on_unknown: OnUnknown) -> None:
    """Raise `InputError` for an invalid choice."""
    if on_unknown not in get_args(OnUnknown):
        raise InputError(f"on_unknown is {on_unknown!r:.60}; expected one of {', '.join(get_args(OnUnknown))}")


def _mask(live_N: NDArray[np.bool_], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    allowed_N = np.zeros_like(live_N)
    allowed_N[positions] = True
    return allowed_N


def _matches(partition: Partition, condition: Filter) -> NDArray[np.bool_]:
    """Return the mask of the documents for which the filter is true, bool [N]."""
    from pyarrow import acero  # imports pyarrow.dataset, a third of the time that a search without a filter starts in

    row = "\x00row"  # cannot be a column: check_column_name rejects NUL
    positions = pa.array(np.arange(partition.info.documents))
    table = pa.table({row: positions, **partition.column_arrays(condition.columns)})
    matches = []
    start, rows = 0, _FIRST_PATTERN_ROWS if condition.patterns else _MAX_BATCH_ROWS
    while start < len(table):
        check_deadline()
        plan = acero.Declaration.from_sequence(
            [
                acero.Declaration("table_source", acero.TableSourceNodeOptions(table.slice(start, rows))),
                acero.Declaration("filter", acero.FilterNodeOptions(condition.expression)),
            ]
        )
        started = time.monotonic()
        # Single-threaded: the caller sets the number of threads.
        matches.append(plan.to_table(use_threads=False).column(row).to_numpy())
        start += rows
        rows = min(4 * rows, _MAX_BATCH_ROWS) if time.monotonic() - started < _QUICK_BATCH_S else rows
    return _mask(partition.live_N, np.concatenate(matches))
