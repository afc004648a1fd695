"""The tables that were read last, up to so many bytes, for all threads of a process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import pyarrow as pa


class RecentTables:
    """What is asked for again soon need not be decoded again; what was not asked for longest goes first.

    Args:
        max_bytes: of all tables together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tables: OrderedDict[Hashable, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tables

    def get(self, key: Hashable) -> pa.Table | None:
        """A table, if it is still here."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
            return self._tables.get(key)

    def put(self, key: Hashable, table: pa.Table) -> None:
        """Keep a table, unless it alone is too large."""
        if table.nbytes > self._max_bytes:
            return
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table
                self._bytes += table.nbytes
            while self._bytes > self._max_bytes:
                _, oldest = self._tables.popitem(last=False)
                self._bytes -= oldest.nbytes
