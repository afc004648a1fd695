"""Which documents of each partition a search may return: not deleted, and kept by a filter and by a set of ids."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import acero

from raycol.errors import InputError
from raycol.index.format.columns import Columns
from raycol.index.format.document import check_id
from raycol.index.format.ids import id_hashes
from raycol.index.format.partition import Partition
from raycol.index.search.deadline import check_time
from raycol.index.search.filters import Filter, parse_filter

OnUnknown = Literal["ignore", "refuse"]

# Rows that are looked at before asking for the time. A pattern may take a tenth of a second for one of them.
_ROWS = 1 << 15
_ROWS_OF_PATTERNS = 1 << 4
# Where they took less, more are looked at next.
_QUICK_S = 0.05


def select(
    partitions: Sequence[Partition],
    columns: Columns,
    filter_: str | None,
    ids: Iterable[str] | None,
    on_unknown: OnUnknown = "ignore",
) -> list[NDArray[np.bool_]]:
    """For each partition whether its documents may be found, bool [N].

    What can be refused is, before a partition is read; then each is checked, once.

    Raises:
        InputError: a filter that cannot be used; an id that is no string, or, where asked, one not in the index.
        IndexCorruptError: a partition that is damaged.
    """
    condition = None if filter_ is None else parse_filter(filter_, columns)
    wanted = None if ids is None else check_ids(ids)
    check_on_unknown(on_unknown)
    for partition in partitions:
        partition.check()
    allowed = [partition.live_N for partition in partitions]
    if wanted is not None:
        chosen = _find(partitions, wanted, on_unknown)
        allowed = [_only(live_N, positions) for live_N, positions in zip(allowed, chosen, strict=True)]
    if condition is not None:
        allowed = [
            allowed_N & _matches(partition, condition) if allowed_N.any() else allowed_N
            for partition, allowed_N in zip(partitions, allowed, strict=True)
        ]
    return allowed


def locate(
    partitions: Sequence[Partition], ids: Iterable[str], on_unknown: OnUnknown = "ignore"
) -> list[NDArray[np.int64]]:
    """For each partition the positions of those of its live documents that `ids` names, ascending.

    Raises:
        InputError: an id that is no string, or, with `refuse`, one that is not in the index.
    """
    wanted = check_ids(ids)
    check_on_unknown(on_unknown)
    return _find(partitions, wanted, on_unknown)


def _find(partitions: Sequence[Partition], wanted: list[str], on_unknown: OnUnknown) -> list[NDArray[np.int64]]:
    """What `locate` does, of ids that are checked."""
    hashes_M = id_hashes(wanted)
    unknown_M = np.ones(len(wanted), dtype=bool)
    chosen = []
    for partition in partitions:
        found_M = partition.find(wanted, hashes_M) if wanted else np.empty(0, dtype=np.int64)
        unknown_M &= found_M < 0
        chosen.append(np.sort(found_M[found_M >= 0]))
    if on_unknown == "refuse" and unknown_M.any():
        first = wanted[int(unknown_M.argmax())]
        raise InputError(
            f"document {first!r} is not in the index ({int(unknown_M.sum())} of {len(wanted)} ids are not)"
        )
    return chosen


def check_ids(ids: Iterable[str]) -> list[str]:
    """Each id once, in the order they came. Raises `InputError` unless they are a collection of strings."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"ids is {ids!r:.60}, a {type(ids).__name__}; expected a list of ids")
    return list(dict.fromkeys(map(check_id, ids)))


def check_on_unknown(on_unknown: OnUnknown) -> None:
    """Raise `InputError` for a choice that there is not."""
    if on_unknown not in get_args(OnUnknown):
        raise InputError(f"on_unknown is {on_unknown!r:.60}; expected one of {', '.join(get_args(OnUnknown))}")


def _only(live_N: NDArray[np.bool_], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    allowed_N = np.zeros_like(live_N)
    allowed_N[positions] = True
    return allowed_N


def _matches(partition: Partition, condition: Filter) -> NDArray[np.bool_]:
    """Whether the filter is true of each document."""
    row = "\x00row"  # no column's name: check_column_name refuses it
    numbers = pa.array(np.arange(partition.info.documents))
    table = pa.table({row: numbers, **partition.column_arrays(condition.columns)})
    found = []
    start, rows = 0, _ROWS_OF_PATTERNS if condition.patterns else _ROWS
    while start < len(table):
        check_time()
        plan = acero.Declaration.from_sequence(
            [
                acero.Declaration("table_source", acero.TableSourceNodeOptions(table.slice(start, rows))),
                acero.Declaration("filter", acero.FilterNodeOptions(condition.expression)),
            ]
        )
        started = time.monotonic()
        # On this thread alone: how many there are is the caller's choice.
        found.append(plan.to_table(use_threads=False).column(row).to_numpy())
        start += rows
        rows = min(4 * rows, _ROWS) if time.monotonic() - started < _QUICK_S else rows
    return _only(partition.live_N, np.concatenate(found))
