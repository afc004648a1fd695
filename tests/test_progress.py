"""Progress of long commands, on a terminal and without one."""

import io
import sys
import time
from contextlib import suppress
from threading import active_count
from types import SimpleNamespace

import pytest
from rich.console import Console

from raycol.core import progress as module
from raycol.core.progress import progress


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The text printed to a console that is not a terminal."""
    return use_console(monkeypatch, terminal=False)


def use_console(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=file, force_terminal=terminal, width=200, highlight=False))
    return file


def wait_for(file: io.StringIO, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + 20
    while file.getvalue().count(text) < times:
        assert time.monotonic() < deadline, file.getvalue()
        time.sleep(0.005)


def test_lines_are_printed_without_progress(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_INTERVAL_S", 0.01)
    before = active_count()
    with progress("Indexing") as report:
        wait_for(output, " s: 0\n")
        report(0, 900, "2 running")
        wait_for(output, " s: 0 of 900 (2 running)\n", times=2)
    assert active_count() == before
    with suppress(KeyError), progress("Failing"):
        raise KeyError
    assert active_count() == before
    assert "Failing: done" not in output.getvalue()


def test_a_short_run_prints_no_lines_in_between(output: io.StringIO) -> None:
    with progress("Indexing") as report:
        report(3, 4, "busy")
    first, last = output.getvalue().splitlines()
    assert (first, last.startswith("Indexing: done in 0.")) == ("Indexing ...", True)


def test_the_time_left_is_estimated_from_the_current_stage() -> None:
    """An earlier run has already done 900 of 1000."""
    stage = module._Stage(0, 0, 0, None).updated(10, 30, None, "reading").updated(20, 900, 1000, "")
    assert stage.line(20) == "900 of 1,000 (reading)"
    assert stage.updated(60, 901, 1000, "x").line(120) == "901 of 1,000, about 9,900 s left (x)"
    # A new stage begins when less is done than before, or the total changes.
    for done, total in ((10, 1000), (950, 2000)):
        another = stage.updated(100, done, total, "").updated(130, done + 1, total, "")
        assert f"about {30 * (total - done - 1):,} s left" in another.line(130)


def test_earlier_progress_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    output = use_console(monkeypatch, terminal=True)
    bars = []
    make = module._bar
    monkeypatch.setattr(module, "_bar", lambda: bars.append(make()) or bars[0])
    clock = iter(range(1000))
    with progress("Indexing") as report:
        bars[0].get_time = lambda: float(next(clock))
        task = bars[0].tasks[0]
        for done in (0, 500, 1000):
            report(done, 1000, "sampling")
        assert task.speed
        report(900, 1000, "")  # a new stage with the same total
        assert task.speed is None
        assert not task.finished
        report(901, 1000, "")
        report(902, 1000, "")
        assert task.speed
        assert task.speed <= 1
    assert "902/1000" in output.getvalue() or "1000/1000" in output.getvalue()


def test_a_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython is not a requirement: its `display` is recorded here."""
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(content)

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(content)
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(module, "console", Console(file=io.StringIO(), force_jupyter=True))
    monkeypatch.setattr(module, "_FRAME_INTERVAL_S", 0.005)
    with progress("Indexing <a>") as report:
        report(3, 4, "busy")
        deadline = time.monotonic() + 20
        while "3 of 4 (busy)" not in shown[-1]["text/plain"]:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert "<progress value='3' max='4'></progress> Indexing &lt;a&gt;" in shown[-2]["text/html"]
    assert shown[-1]["text/plain"].endswith("s: done (busy)")
    with suppress(KeyError), progress("Indexing"):
        raise KeyError
    assert shown[-1]["text/plain"].endswith("s: failed")
