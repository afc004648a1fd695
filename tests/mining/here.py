"""Mining and scoring in this process; that Ray's workers write the same bytes is tested in test_crashes.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from raycol import mining
from raycol.distributed.executor import IN_PROCESS

MADE: list[int] = []
"""The numbers of the parts that were made, in their order."""


class Noting(type(IN_PROCESS)):
    """`IN_PROCESS`, that notes which parts it makes."""

    def run(self, *arguments: Any, **named: Any) -> Iterator[dict[str, Any]]:
        for row in super().run(*arguments, **named):
            MADE.append(row["number"])
            yield row


HERE = Noting()

mine_negatives = partial(mining.mine_negatives, executor=HERE)
score_examples = partial(mining.score_examples, executor=HERE)
