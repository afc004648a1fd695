"""Progress of a training: a live table on a terminal, otherwise a line per evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raycol.core.progress import console
from raycol.evaluation.metrics import DEFAULT_METRICS
from raycol.training.metrics import OnRecord, Record

_METRIC = "nDCG@10"
_MAX_STEPS, _MAX_EVALUATIONS = 12, 12  # rows of the table
# Minimum time between two rows of steps, so that they can be read.
_ROW_INTERVAL_S = 2.0
_FRAMES_PER_SECOND = 2.0
# Terminal lines that are not rows: title, header, rules, lines above and below the table.
_RESERVED_LINES = 8

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("loss", "{:.4f}".format),
    "learning_rate": ("learning rate", "{:.2e}".format),
    "grad_norm": ("gradient norm", "{:.3g}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "memory_bytes": ("memory", lambda n_bytes: f"{n_bytes / 2**30:.2f} GiB"),
    _METRIC: (_METRIC, "{:.4f}".format),
}


@contextmanager
def live_table() -> Iterator[OnRecord]:
    """Show a live table for the duration of the block; yields the callback that adds a record to it.

    A record is a step (`step`, `steps`, `loss`, ...) or an evaluation (`step`, `steps`, `nDCG@10`, ...). Without a
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
    if _METRIC in record:
        metrics = ", ".join(f"{name} {record[name]:.4f}" for name in DEFAULT_METRICS if name in record)
        console.print(f"step {record['step']:,.0f} of {record['steps']:,.0f}: {metrics}")


@dataclass(frozen=True)
class _Row:
    """A step, with its evaluation if there was one, and the time of its first record."""

    record: Record
    time: float

    @property
    def step(self) -> float:
        return self.record["step"]

    @property
    def is_evaluated(self) -> bool:
        return _METRIC in self.record


@dataclass(frozen=True)
class TableState:
    """Immutable state of the table. Times are in seconds of a monotonic clock.

    Args:
        start_time: start of the training.
        rows: oldest first. The last row is always the newest step; a later step may replace it.
        speed_base: the row from which the speed is measured.
        best: the best evaluation so far.
    """

    start_time: float
    rows: tuple[_Row, ...] = ()
    speed_base: _Row | None = None
    best: Record | None = None

    def add(self, record: Record, now: float) -> TableState:
        """Return the state after a record. An earlier step than the last one means a restart from a checkpoint."""
        rows = [row for row in self.rows if row.step < record["step"]]
        same_step = next((row for row in self.rows if row.step == record["step"]), _Row({}, now))
        rewinds = bool(self.rows) and record["step"] < self.rows[-1].step
        if len(rows) > 1 and not rows[-1].is_evaluated and rows[-1].time - rows[-2].time < _ROW_INTERVAL_S:
            del rows[-1]
        rows.append(replace(same_step, record={**same_step.record, **record}))
        speed_base = rows[-1] if self.speed_base is None or rewinds else self.speed_base
        best = self.best
        if _METRIC in record and (best is None or record[_METRIC] > best[_METRIC]):
            best = record
        steps = [row for row in rows if not row.is_evaluated][-_MAX_STEPS:]
        evaluated = [row for row in rows if row.is_evaluated][-_MAX_EVALUATIONS:]
        shown = tuple(sorted([*steps, *evaluated], key=lambda row: row.step))
        return TableState(self.start_time, shown, speed_base, best)

    def render(self, screen: Console, now: float) -> RenderableType:
        """Render the table, cut to the height of the screen."""
        if not self.rows:
            return Text(f"Training: starting, {_duration(now - self.start_time)}")
        table = Table(
            title=self._title(now), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column(f"step of {self.rows[-1].record['steps']:,.0f}", justify="right")
        for title, _ in _COLUMNS.values():
            table.add_column(title, justify="right")
        for row in self.rows[-max(1, screen.height - _RESERVED_LINES) :]:
            cells = (
                format_(row.record[name]) if name in row.record else "" for name, (_, format_) in _COLUMNS.items()
            )
            table.add_row(f"{row.step:,.0f}", *cells, style="bold" if row.is_evaluated else "")
        return table

    def _title(self, now: float) -> Text:
        step, steps = self.rows[-1].step, self.rows[-1].record["steps"]
        parts = [f"Training: {step / steps:.0%} in {_duration(now - self.start_time)}"]
        if self.speed_base and self.speed_base.step < step < steps:
            seconds_per_step = (now - self.speed_base.time) / (step - self.speed_base.step)
            parts.append(f"about {_duration(seconds_per_step * (steps - step))} left")
        if self.best:
            parts.append(f"best {_METRIC} {self.best[_METRIC]:.4f} at step {self.best['step']:,.0f}")
        return Text(", ".join(parts), style="bold")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
