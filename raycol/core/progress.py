"""Progress of long commands: a bar on a terminal or in a notebook, otherwise a plain line every few seconds."""

from __future__ import annotations

import html
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


class _Console(Console):
    """Prints text without interpreting markup, and shows control characters as escapes."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `Console`."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


# For everything except results: progress and notices go to standard error, results to standard output.
console: Console = _Console(stderr=True, highlight=False, markup=False)

# Called with the amount done, the total if known, and a short note.
Report = Callable[[float, float | None, str], None]

# Seconds between two plain lines.
_LINE_INTERVAL_S = 15.0
# Seconds between two updates in a notebook.
_FRAME_INTERVAL_S = 0.5
# Window of the bar's speed estimate, in seconds; a part of a corpus may take minutes.
_SPEED_WINDOW_S = 600.0

# Notices printed so far.
_printed: set[str] = set()


def print_once(text: str) -> None:
    """Print a notice once per process, such as a guess of a reader about its file."""
    if text not in _printed:
        _printed.add(text)
        console.print(text, soft_wrap=True)


def no_report(done: float, total: float | None = None, note: str = "") -> None:
    """Ignore the progress."""


@dataclass(frozen=True)
class _Stage:
    """A stage of the work.

    Args:
        began: time of its first report.
        first: amount done by then, perhaps by an earlier run, which must not count as speed.
        done: amount done now.
        total: of the work, if known.
        note: of the last report.
    """

    began: float
    first: float
    done: float
    total: float | None
    note: str = ""

    def updated(self, now: float, done: float, total: float | None, note: str) -> _Stage:
        """Return the stage after a report; a lower amount or another total starts a new stage."""
        note = note or self.note
        if done < self.done or total != self.total:
            return _Stage(now, done, done, total, note)
        return replace(self, done=done, note=note)

    def line(self, now: float) -> str:
        """Format the progress, with the time left if anything was done since the stage began."""
        if not self.total:
            return f"{self.done:,.0f}{self.suffix}"
        eta = ""
        if self.first < self.done < self.total:
            seconds = (now - self.began) * (self.total - self.done) / (self.done - self.first)
            eta = f", about {seconds:,.0f} s left"
        return f"{self.done:,.0f} of {self.total:,.0f}{eta}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The note in parentheses, or an empty string."""
        return f" ({self.note})" if self.note else ""


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show a progress bar while the block runs; the block calls the returned function with its progress.

    The bar pulses until a total is known. A notebook shows a bar too. Elsewhere a line is printed every 15 seconds,
    even if nothing was reported since the last one.
    """
    if console.is_jupyter:
        with _notebook_bar(title) as in_notebook:
            yield in_notebook
        return
    started = time.monotonic()
    stage = _Stage(started, 0, 0, None)

    def print_line() -> None:
        now = time.monotonic()
        console.print(f"{title}, {now - started:,.0f} s: {stage.line(now)}")

    with _bar() as bar, nullcontext() if console.is_terminal else _lines(f"{title} ...", print_line):
        task = bar.add_task(printable(title), total=None, note="")

        def report(done: float, total: float | None = None, note: str = "") -> None:
            nonlocal stage
            previous, stage = stage, stage.updated(time.monotonic(), done, total, note)
            if stage.began != previous.began:
                start_time = bar.tasks[0].start_time
                bar.reset(task, total=total, completed=int(done))
                bar.tasks[0].start_time = start_time
            bar.update(task, completed=done, total=total, note=printable(stage.note))

        yield report
        final = bar.tasks[0].total or bar.tasks[0].completed or 1
        bar.update(task, completed=final, total=final)
    if not console.is_terminal:
        console.print(f"{title}: done in {time.monotonic() - started:.1f} s{stage.suffix}")


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
        speed_estimate_period=_SPEED_WINDOW_S,
    )


@contextmanager
def _lines(first: str, print_line: Callable[[], None]) -> Iterator[None]:
    """Print a first line, then further lines from a thread while the block runs."""
    console.print(first)
    with _every(_LINE_INTERVAL_S, print_line):
        yield


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call a function at an interval, from a thread, while the block runs."""
    ended = Event()

    def tick() -> None:
        while not ended.wait(seconds):
            call()

    thread = Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _notebook_bar(title: str) -> Iterator[Report]:
    """Show the progress in the output of a notebook's cell: one line with a bar, replaced as it changes.

    rich needs ipywidgets for this, and prints a warning per frame without.
    """
    from IPython.display import display  # type: ignore[import-not-found]

    started = time.monotonic()
    stage = _Stage(started, 0, 0, None)

    def content(line: str, bar: str) -> dict[str, str]:
        text = f"{title}, {time.monotonic() - started:,.0f} s{line}"
        return {"text/plain": printable(text), "text/html": f"{bar} {html.escape(text)}"}

    def frame() -> dict[str, str]:
        amount = f"value='{stage.done:g}' max='{stage.total:g}'" if stage.total else ""
        return content(f": {stage.line(time.monotonic())}", f"<progress {amount}></progress>")

    handle = display(frame(), raw=True, display_id=True)

    def report(done: float, total: float | None = None, note: str = "") -> None:
        nonlocal stage
        stage = stage.updated(time.monotonic(), done, total, note)

    ended = ": failed"
    try:
        with _every(_FRAME_INTERVAL_S, lambda: handle.update(frame(), raw=True)):
            yield report
        ended = f": done{stage.suffix}"
    finally:
        handle.update(
            content(ended, "<progress value='1' max='1'></progress>" if ended != ": failed" else ""), raw=True
        )
