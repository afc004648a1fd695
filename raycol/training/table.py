"""Progress of a training: a live table on a terminal, otherwise a line per evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raycol.core.progress import console
from raycol.training.metrics import OnRecord, Record, evaluation_of

_MAX_STEPS, _MAX_EVALUATIONS = 12, 12  # rows of the table
# Minimum time between two rows of steps, so that they can be read.
_ROW_INTERVAL_S = 2.0
_FRAMES_PER_SECOND = 2.0
# Collections with a column each, beside their average.
_MAX_COLLECTIONS = 4
# Terminal lines that are not rows: title of two lines, header, rules, lines above and below the table.
_RESERVED_LINES = 9

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("loss", "{:.4f}".format),
    "learning_rate": ("learning rate", "{:.2e}".format),
    "grad_norm": ("gradient norm", "{:.3g}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "memory_bytes": ("memory", lambda n_bytes: f"{n_bytes / 2**30:.2f} GiB"),
}


@contextmanager
def live_table() -> Iterator[OnRecord]:
    """Show a live table for the duration of the block; yields the callback that adds a record to it.

    A record is a step (`step`, `steps`, `loss`, ...) or an evaluation (`step`, `steps`, `nDCG@10`, ...), of the
    untrained model at step 0. Without a
    terminal only evaluations are printed, a line each; `raycol.core.progress.progress` prints the steps.
    """
    if not console.is_terminal:
        yield _print_evaluation
        return
    state = TableState(time.monotonic())

    def on_record(record: Record) -> None:
        nonlocal state
        state = state.add(record, time.monotonic())

    # The state is immutable, so the rendering thread needs no lock.
    with Live(
        get_renderable=lambda: state.render(console, time.monotonic()),
        console=console,
        refresh_per_second=_FRAMES_PER_SECOND,
    ):
        yield on_record


def _print_evaluation(record: Record) -> None:
    if found := evaluation_of(record):
        metric = next(iter(found))
        # Of each collection, the deciding metric.
        shown = {name: value for name, value in found.items() if " " not in name or name.startswith(f"{metric} ")}
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        console.print(f"step {record['step']:,.0f} of {record['steps']:,.0f}: {metrics}")


@dataclass(frozen=True)
class _Row:
    """A step, with its evaluation if there was one, and the time of its first record."""

    record: Record
    time: float
    evaluation: Record = field(default_factory=dict)

    @property
    def step(self) -> float:
        return self.record["step"]

    @property
    def is_evaluated(self) -> bool:
        return bool(self.evaluation)


@dataclass(frozen=True)
class TableState:
    """Immutable state of the table. Times are in seconds of a monotonic clock.

    Args:
        start_time: start of the training.
        rows: oldest first. The last row is always the newest step; a later step may replace it.
        speed_base: the row from which the speed is measured.
        columns: metrics with a column, the deciding one first.
        untrained: value of the deciding metric at step 0.
        best: step and value of the best evaluation after it.
    """

    start_time: float
    rows: tuple[_Row, ...] = ()
    speed_base: _Row | None = None
    columns: tuple[str, ...] = ()
    untrained: float | None = None
    best: tuple[float, float] | None = None

    def add(self, record: Record, now: float) -> TableState:
        """Return the state after a record. An earlier step than the last one means a restart from a checkpoint."""
        rows = [row for row in self.rows if row.step < record["step"]]
        same_step = next((row for row in self.rows if row.step == record["step"]), _Row({}, now))
        rewinds = bool(self.rows) and record["step"] < self.rows[-1].step
        if len(rows) > 1 and not rows[-1].is_evaluated and rows[-1].time - rows[-2].time < _ROW_INTERVAL_S:
            del rows[-1]
        found = evaluation_of(record)
        merged = {**same_step.record, **record}
        rows.append(replace(same_step, record=merged, evaluation=found or same_step.evaluation))
        speed_base = rows[-1] if self.speed_base is None or rewinds else self.speed_base
        columns, untrained, best = self.columns, self.untrained, self.best
        if found:
            metric, value = next(iter(found.items()))
            collections = [name for name in found if name.startswith(f"{metric} ")]
            columns = (metric, *(collections if len(collections) <= _MAX_COLLECTIONS else ()))
            if not record["step"]:
                untrained = value
            elif best is None or value > best[1]:
                best = (record["step"], value)
        steps = [row for row in rows if not row.is_evaluated][-_MAX_STEPS:]
        evaluated = [row for row in rows if row.is_evaluated][-_MAX_EVALUATIONS:]
        shown = tuple(sorted([*steps, *evaluated], key=lambda row: row.step))
        return TableState(self.start_time, shown, speed_base, columns, untrained, best)

    def render(self, screen: Console, now: float) -> RenderableType:
        """Render the table, cut to the height of the screen."""
        if not self.rows:
            return Text(f"Training: starting, {_duration(now - self.start_time)}")
        table = Table(
            title=self._title(now), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column(f"step of {self.rows[-1].record['steps']:,.0f}", justify="right")
        columns = {**_COLUMNS, **{name: (name, "{:.4f}".format) for name in self.columns}}
        for title, _ in columns.values():
            table.add_column(title, justify="right")
        for row in self.rows[-max(1, screen.height - _RESERVED_LINES) :]:
            cells = (format_(row.record[name]) if name in row.record else "" for name, (_, format_) in columns.items())
            table.add_row(f"{row.step:,.0f}", *cells, style="bold" if row.is_evaluated else "")
        return table

    def _title(self, now: float) -> Text:
        step, steps = self.rows[-1].step, self.rows[-1].record["steps"]
        parts = [f"Training: {step / steps:.0%} in {_duration(now - self.start_time)}"]
        if self.speed_base and self.speed_base.step < step < steps:
            seconds_per_step = (now - self.speed_base.time) / (step - self.speed_base.step)
            parts.append(f"about {_duration(seconds_per_step * (steps - step))} left")
        if self.best:
            parts.append(f"best {self.columns[0]} {self.best[1]:.4f} at step {self.best[0]:,.0f}")
        if self.untrained is not None:
            parts.append(f"untrained {self.untrained:.4f}")
        return Text(", ".join(parts), style="bold")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
