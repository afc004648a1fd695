"""What is told of a training as it goes."""

from __future__ import annotations

from collections.abc import Callable

# Of a step or an evaluation, by name: step, steps, loss, learning_rate, grad_norm, ...; or step, nDCG@10, ...
Record = dict[str, float]

OnRecord = Callable[[Record], None]
