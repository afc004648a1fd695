"""References to test collections: named, and opened one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from raycol.data.collection import Collection


@dataclass(frozen=True)
class CollectionRef:
    """A collection that is not open yet.

    Args:
        name: of the collection, unique among those of a benchmark.
        load: opens it.
        group: collections of one group are averaged first.
    """

    name: str
    load: Callable[[], Collection]
    group: str | None = None

    def open(self) -> Collection:
        """Read the queries and judgements; the corpus stays in its files.

        Raises:
            InputError: a file is missing or malformed.
        """
        return replace(self.load(), name=self.name, group=self.group)
