"""How a training goes, as a table that stays in its place on a terminal; elsewhere a line for each evaluation."""

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
from raycol.evaluation.metrics import METRICS
from raycol.training.record import OnRecord, Record

_METRIC = "nDCG@10"
# At most so many steps are shown, and so many evaluations; steps this many seconds apart, so that they can be read.
_STEPS, _EVALUATIONS = 12, 12
_APART_S = 2.0
_FRAMES_PER_SECOND = 2.0
# Lines of a terminal that rows are not for: title, header, rules, what stands above and below.
_OTHER_LINES = 8

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
    """Show the course of a training while the block runs; the block calls what it is given with each record.

    A record is a step (`step`, `steps`, `loss`, ...) or an evaluation (`step`, `steps`, `nDCG@10`, ...). Where there
    is no terminal, only evaluations are printed, a line each; `raycol.core.progress.progress` prints the rest there.
    """
    if not console.is_terminal:
        yield _print_evaluation
        return
    course = Course(time.monotonic())

    def on_record(record: Record) -> None:
        nonlocal course
        course = course.after(record, time.monotonic())

    # A course never changes, so the thread that draws needs no lock: it draws the one that there is.
    with Live(
        get_renderable=lambda: course.draw(console, time.monotonic()),
        console=console,
        refresh_per_second=_FRAMES_PER_SECOND,
    ):
        yield on_record


def _print_evaluation(record: Record) -> None:
    if _METRIC in record:
        found = ", ".join(f"{name} {record[name]:.4f}" for name in METRICS if name in record)
        console.print(f"step {record['step']:,.0f} of {record['steps']:,.0f}: {found}")


@dataclass(frozen=True)
class _Row:
    """A step: what is known of it, an evaluation included, and when it was first heard of."""

    record: Record
    at: float

    @property
    def step(self) -> float:
        return self.record["step"]

    @property
    def is_evaluated(self) -> bool:
        return _METRIC in self.record


@dataclass(frozen=True)
class Course:
    """What is shown of a training.

    Args:
        began: when it was started, in seconds of some clock.
        rows: oldest first; the last one is the newest step, whether or not it will stay.
        first: the row that the speed is measured from.
        best: the best evaluation so far.
    """

    began: float
    rows: tuple[_Row, ...] = ()
    first: _Row | None = None
    best: Record | None = None

    def after(self, record: Record, now: float) -> Course:
        """After a record. One of an earlier step than the last means that training went back to a checkpoint."""
        rows = [row for row in self.rows if row.step < record["step"]]
        same = next((row for row in self.rows if row.step == record["step"]), _Row({}, now))
        went_back = bool(self.rows) and record["step"] < self.rows[-1].step
        if len(rows) > 1 and not rows[-1].is_evaluated and rows[-1].at - rows[-2].at < _APART_S:
            del rows[-1]
        rows.append(replace(same, record={**same.record, **record}))
        first = rows[-1] if self.first is None or went_back else self.first
        best = self.best
        if _METRIC in record and (best is None or record[_METRIC] > best[_METRIC]):
            best = record
        steps = [row for row in rows if not row.is_evaluated][-_STEPS:]
        evaluated = [row for row in rows if row.is_evaluated][-_EVALUATIONS:]
        shown = tuple(sorted([*steps, *evaluated], key=lambda row: row.step))
        return Course(self.began, shown, first, best)

    def draw(self, screen: Console, now: float) -> RenderableType:
        """The table, no higher than the screen."""
        if not self.rows:
            return Text(f"Training: starting, {_duration(now - self.began)}")
        table = Table(
            title=self._title(now), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column(f"step of {self.rows[-1].record['steps']:,.0f}", justify="right")
        for title, _ in _COLUMNS.values():
            table.add_column(title, justify="right")
        for row in self.rows[-max(1, screen.height - _OTHER_LINES) :]:
            cells = (show(row.record[name]) if name in row.record else "" for name, (_, show) in _COLUMNS.items())
            table.add_row(f"{row.step:,.0f}", *cells, style="bold" if row.is_evaluated else "")
        return table

    def _title(self, now: float) -> Text:
        step, steps = self.rows[-1].step, self.rows[-1].record["steps"]
        parts = [f"Training: {step / steps:.0%} in {_duration(now - self.began)}"]
        if self.first and self.first.step < step < steps:
            pace = (now - self.first.at) / (step - self.first.step)
            parts.append(f"about {_duration(pace * (steps - step))} left")
        if self.best:
            parts.append(f"best {_METRIC} {self.best[_METRIC]:.4f} at step {self.best['step']:,.0f}")
        return Text(", ".join(parts), style="bold")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
