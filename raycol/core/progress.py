"""Progress of the long verbs: a moving bar on a terminal, elsewhere a plain line now and then, and one at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import TimeRemainingColumn as _Remaining

from raycol.core.escaping import printable


# One console for everything but results: bars and remarks go to standard error, results to standard output.
class _Console(Console):
    """Prints texts as they are, without markup, and shows what would control the terminal as escapes."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `Console`."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


console: Console = _Console(stderr=True, highlight=False, markup=False)

# Called with how much is done and, when it is known, of how much, and a word on how it goes.
Report = Callable[[float, float | None, str], None]

# Seconds between two plain lines.
_LINE_EVERY = 15.0
# Seconds that the bar's estimate of the time left looks back; parts of a corpus may take minutes each.
_LOOK_BACK = 600.0


_remarks: set[str] = set()


def print_once(text: str) -> None:
    """Print a line beside the work, once in this process: what a reader guessed, for instance."""
    if text not in _remarks:
        _remarks.add(text)
        console.print(text, soft_wrap=True)


def no_report(done: float, total: float | None = None, note: str = "") -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class _Stage:
    """A stage of the work: when it began and what was done by then (an earlier run may have done much), and now."""

    began: float
    first: float
    done: float
    total: float | None
    note: str = ""

    def moved(self, now: float, done: float, total: float | None, note: str) -> _Stage:
        """After a report, which may begin another stage."""
        note = note or self.note
        if done < self.done or total != self.total:
            return _Stage(now, done, done, total, note)
        return replace(self, done=done, note=note)

    def line(self, now: float) -> str:
        """How it goes, with the time left where something was done since the stage began."""
        if not self.total:
            return f"{self.done:,.0f}{self.remark}"
        left = ""
        if self.first < self.done < self.total:
            seconds = (now - self.began) * (self.total - self.done) / (self.done - self.first)
            left = f", about {seconds:,.0f} s left"
        return f"{self.done:,.0f} of {self.total:,.0f}{left}{self.remark}"

    @property
    def remark(self) -> str:
        """The word on how it goes, if any."""
        return f" ({self.note})" if self.note else ""


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show a bar while the block runs; the block calls what it is given with its progress.

    Without a total yet, the bar pulses. Where there is no terminal, a line is printed every 15 seconds, whether or not
    the block has reported anything since.
    """
    started = time.monotonic()
    stage = _Stage(started, 0, 0, None)

    def say() -> None:
        now = time.monotonic()
        console.print(f"{title}, {now - started:,.0f} s: {stage.line(now)}")

    with _bar() as bar, nullcontext() if console.is_terminal else _lines(f"{title} ...", say):
        task = bar.add_task(printable(title), total=None, note="")

        def report(done: float, total: float | None = None, note: str = "") -> None:
            nonlocal stage
            before, stage = stage, stage.moved(time.monotonic(), done, total, note)
            if stage.began != before.began:
                since = bar.tasks[0].start_time
                bar.reset(task, total=total, completed=int(done))
                bar.tasks[0].start_time = since
            bar.update(task, completed=done, total=total, note=printable(stage.note))

        yield report
        final = bar.tasks[0].total or bar.tasks[0].completed or 1
        bar.update(task, completed=final, total=final)
    if not console.is_terminal:
        console.print(f"{title}: done in {time.monotonic() - started:.1f} s{stage.remark}")


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Remaining(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=_LOOK_BACK,
    )


@contextmanager
def _lines(first: str, say: Callable[[], None]) -> Iterator[None]:
    """A line at once, and then one every few seconds from a thread, while the block runs."""
    console.print(first)
    ended = Event()

    def tick() -> None:
        while not ended.wait(_LINE_EVERY):
            say()

    thread = Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
