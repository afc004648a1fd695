"""Mine and score in this process; test_crashes.py tests that Ray workers write the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from raycol import mining
from raycol.distributed.executor import IN_PROCESS

COMPUTED_PARTS: list[int] = []
"""The numbers of the computed parts, in order."""


class RecordingExecutor(type(IN_PROCESS)):
    """`IN_PROCESS`, but records the parts it computes."""

    def run(self, *arguments: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        for number, result in super().run(*arguments, **named):
            COMPUTED_PARTS.append(number)
            yield number, result


EXECUTOR = RecordingExecutor()

mine_negatives = partial(mining.mine_negatives, executor=EXECUTOR)
score_examples = partial(mining.score_examples, executor=EXECUTOR)
