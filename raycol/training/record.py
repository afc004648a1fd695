"""Records: the metrics of a training step or an evaluation."""

from __future__ import annotations

from collections.abc import Callable

# A step has step, steps, loss, learning_rate, grad_norm, ...; an evaluation has step, steps, nDCG@10, ...
Record = dict[str, float]

OnRecord = Callable[[Record], None]
