"""Progress of the long verbs: a moving bar on a terminal, elsewhere a plain line now and then, and one at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

# One console for everything but results: bars and remarks go to standard error, results to standard output.
console = Console(stderr=True, highlight=False)

# Called with how much is done and, when it is known, of how much, and a word on how it goes.
Report = Callable[[float, float | None, str], None]

# Seconds between two plain lines.
_LINE_EVERY = 15.0


def no_report(done: float, total: float | None = None, note: str = "") -> None:
    """Report to nobody."""


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show a bar while the block runs; the block calls what it is given with its progress.

    Without a total yet, the bar pulses.
    """
    started = said = began = time.monotonic()
    last = ""
    before = 0.0
    if not console.is_terminal:
        console.print(f"{title} ...")

    bar = Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Remaining(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, note="")

        def report(done: float, total: float | None = None, note: str = "") -> None:
            nonlocal last, said, began, before
            last = note or last
            if done < before:  # another stage
                began = time.monotonic()
            before = done
            bar.update(task, completed=done, total=total, note=last)
            if not console.is_terminal and time.monotonic() - said > _LINE_EVERY:
                said = time.monotonic()
                console.print(f"{title}: {_line(done, total, said - began)}{f' ({last})' if last else ''}")

        yield report
        final = bar.tasks[0].total or bar.tasks[0].completed or 1
        bar.update(task, completed=final, total=final)
    if not console.is_terminal:
        console.print(f"{title}: done in {time.monotonic() - started:.1f} s{f' ({last})' if last else ''}")


def _line(done: float, total: float | None, seconds: float) -> str:
    if not total:
        return f"{done:,.0f}"
    left = f", about {seconds * (total - done) / done:,.0f} s left" if 0 < done < total else ""
    return f"{done:,.0f} of {total:,.0f}{left}"
