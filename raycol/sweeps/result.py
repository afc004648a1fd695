"""Result of a sweep, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from raycol.core.escaping import plain
from raycol.core.shown import Shown, html_table


@dataclass(frozen=True)
class Trial:
    """A training of a sweep.

    Args:
        number: names its folder.
        settings: those that the trials differ in.
        status: `stopped` early, `finished`, or `failed`.
        steps: step of each evaluation.
        values: its metric.
        seconds: of a finished training.
        error: of a failed one.
    """

    number: int
    settings: Mapping[str, Any]
    status: Literal["stopped", "finished", "failed"]
    steps: list[int]
    values: list[float]
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, repr=False)
class SweepResult(Shown):
    """Result of `raycol sweep`.

    Args:
        out: folder of the sweep.
        model: the best finished trial's model.
        metric: that the trials are compared by.
        best: number of that trial.
        trials: all of them.
    """

    _main: ClassVar[tuple[str, ...]] = ("model", "metric", "value", "settings")

    out: str
    model: str
    metric: str
    best: int
    trials: tuple[Trial, ...]

    @property
    def value(self) -> float:
        """The best model's metric."""
        return max(self.trials[self.best].values)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The best trial's settings."""
        return self.trials[self.best].settings

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and a row of text for each trial, best first."""
        header = ["trial", *self.settings, self.metric, "steps", "status"]
        ranked = sorted(self.trials, key=lambda trial: (-max(trial.values, default=-1.0), trial.number))
        rows = [
            [
                str(trial.number),
                *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.settings.values()),
                f"{max(trial.values):.4f}" if trial.values else "",
                str(trial.steps[-1]) if trial.steps else "",
                "best" if trial.number == self.best else trial.status + (f": {trial.error}" if trial.error else ""),
            ]
            for trial in ranked
        ]
        return header, rows

    def markdown(self) -> str:
        """Return the table in Markdown."""
        header, rows = self.table()
        lines = [header, ["---"] * len(header), *([plain(cell) for cell in row] for row in rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def _repr_html_(self) -> str:
        return html_table(*self.table(), self.out)
