"""The progress of a training on a terminal and in a log."""

import io
import re
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raycol.training import table as module
from raycol.training.table import TableState, live_table


def a_step(step: int, steps: int = 400) -> dict[str, float]:
    return {"step": step, "steps": steps, "loss": 3 / step, "grad_norm": 1.25, "learning_rate": 1e-5,
            "tokens_per_second": 12345.6, "memory_bytes": 3 * 2**30, "epoch": step / steps}  # fmt: skip


def an_evaluation(step: int, value: float, steps: int = 400) -> dict[str, float]:
    return {
        "step": step,
        "steps": steps,
        "nDCG@10": value,
        "R@10": 0.7,
        "R@100": 0.9,
        "RR@10": 0.5,
        "epoch": step / steps,
    }


def use_console(monkeypatch: pytest.MonkeyPatch, terminal: bool, height: int = 40) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(
        module, "console", Console(file=file, force_terminal=terminal, width=120, height=height, highlight=False)
    )
    return file


def screen(written: str) -> list[str]:
    """Lines on a terminal after it has interpreted the written text and cursor movements."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


def drawn(state: TableState, now: float, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=120, height=height)
    with console.capture() as capture:
        console.print(state.render(console, now))
    return capture.get().splitlines()


def cells(line: str) -> list[str]:
    return line.replace(" GiB", "GiB").split()


def test_the_table_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    file = use_console(monkeypatch, terminal=True)
    with live_table() as on_record:
        for step in range(1, 3001):
            on_record(a_step(step, 3000))
            if step % 1000 == 0:
                on_record(an_evaluation(step, step / 10000, 3000))
    seen = screen(file.getvalue())
    assert len(seen) < 40
    assert sum("step of 3,000" in line for line in seen) == 1
    assert seen[0].startswith("Training: 100% in 0:0")
    assert seen[0].endswith("best nDCG@10 0.3000 at step 3,000")
    assert cells(seen[-1]) == ["3,000", "0.0010", "1.00e-05", "1.25", "12,346", "3.00GiB", "0.3000"]
    assert [cells(line)[-1] for line in seen if re.match(r" +[123],000 ", line)] == ["0.1000", "0.2000", "0.3000"]
    assert file.getvalue().count("\n") < 1000  # a few frames, not a line per step


def test_without_a_terminal_each_evaluation_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = use_console(monkeypatch, terminal=False)
    with live_table() as on_record:
        for step in range(1, 101):
            on_record(a_step(step))
        on_record(an_evaluation(100, 0.61))
    assert file.getvalue() == "step 100 of 400: nDCG@10 0.6100, R@10 0.7000, R@100 0.9000, RR@10 0.5000\n"


def test_the_untrained_model_has_a_row_and_is_not_the_best() -> None:
    state = TableState(start_time=0).add(an_evaluation(0, 0.9), now=1)
    assert drawn(state, now=1)[0].rstrip() == "Training: 0% in 0:00:01, untrained 0.9000"
    state = state.add(a_step(8), now=9).add(an_evaluation(8, 0.5), now=10)
    lines = drawn(state, now=10)
    title = " ".join(" ".join(lines[:2]).split())
    assert title.endswith("best nDCG@10 0.5000 at step 8, untrained 0.9000")
    assert [cells(line) for line in lines if re.match(r" +0 ", line)] == [["0", "0.9000"]]


def test_a_few_collections_have_a_column_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def averaged(*names: str) -> dict[str, float]:
        each = {f"{metric} {name}": 0.25 for name in names for metric in ("AP", "R@10")}
        return {"step": 0, "steps": 4, "AP": 0.5, "R@10": 0.75, **each, "epoch": 0}

    few = drawn(TableState(start_time=0).add(averaged("a (dev)", "b"), now=1), now=1)
    assert [title in "\n".join(few) for title in ("AP a (dev)", "AP b", "R@10")] == [True, True, False]
    many = drawn(TableState(start_time=0).add(averaged(*"abcde"), now=1), now=1)
    assert "AP a" not in "\n".join(many)
    file = use_console(monkeypatch, terminal=False)
    with live_table() as on_record:
        on_record(averaged("a (dev)", "b"))
    assert file.getvalue() == "step 0 of 4: AP 0.5000, R@10 0.7500, AP a (dev) 0.2500, AP b 0.2500\n"


def test_an_exception_stops_the_table_and_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    file = use_console(monkeypatch, terminal=True)
    before = set(threading.enumerate())
    with suppress(KeyboardInterrupt), live_table() as on_record:
        on_record(a_step(1))
        raise KeyboardInterrupt
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
    assert any("3.0000" in line for line in screen(file.getvalue()))


def test_the_table_says_starting_before_the_first_step() -> None:
    assert drawn(TableState(start_time=5), now=68) == ["Training: starting, 0:01:03"]


def test_only_slow_steps_have_a_row_each() -> None:
    slow = fast = TableState(start_time=0)
    for step in range(1, 31):
        slow = slow.add(a_step(step), now=10 * step)
        fast = fast.add(a_step(step), now=0.25 * step)
    assert [row.step for row in slow.rows] == [*range(19, 31)]
    assert [row.step for row in fast.rows] == [1, 9, 17, 25, 30]


def test_the_remaining_time_is_estimated_from_this_runs_steps() -> None:
    """An earlier run completed 300 of 400 steps."""
    state = TableState(start_time=0).add(a_step(301), now=60).add(a_step(311), now=160)
    assert drawn(state, now=160)[0].rstrip() == "Training: 78% in 0:02:40, about 0:14:50 left"
    # A worker died and training resumes from a checkpoint: the speed is measured from there.
    state = state.add(a_step(306), now=500)
    assert [row.step for row in state.rows] == [301, 306]
    assert drawn(state.add(a_step(310), now=540), now=540)[0].rstrip().endswith("0:09:00, about 0:15:00 left")


def test_an_evaluation_joins_the_row_of_its_step() -> None:
    state = TableState(start_time=0).add(a_step(8), now=1).add(an_evaluation(8, 0.5), now=9).add(a_step(9), now=10)
    lines = [cells(line) for line in drawn(state, now=10) if re.match(r" +\d", line)]
    assert [line[0] for line in lines] == ["8", "9"]
    assert (lines[0][1], lines[0][-1], len(lines[1])) == ("0.3750", "0.5000", 6)


@given(
    events=st.lists(
        st.tuples(
            st.integers(1, 4),  # steps forward; sometimes back to a checkpoint
            st.sampled_from([0.0, 0.1, 1.0, 3.0, 50.0]),
            st.one_of(st.none(), st.floats(0, 1)),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=80,
    ),
    height=st.integers(10, 60),
)
def test_the_table_is_ordered_and_fits_the_screen(events: list, height: int) -> None:
    state, step, now, values = TableState(start_time=0), 0, 0.0, []
    for further, seconds, value, back in events:
        step = max(1, step - 3) if back == 0 else step + further
        now += seconds
        state = state.add(a_step(step), now)
        if value is not None:
            state = state.add(an_evaluation(step, value), now)
            values.append(value)
        steps = [row.step for row in state.rows]
        assert steps == sorted(set(steps))
        assert steps[-1] == step
        assert sum(row.is_evaluated for row in state.rows) <= 12
        assert sum(not row.is_evaluated for row in state.rows) <= 12
        for earlier, later in zip(state.rows, state.rows[1:-1], strict=False):
            assert later.is_evaluated or later.time - earlier.time >= 2
    assert (state.best or (0, None))[1] == (max(values) if values else None)
    assert len(drawn(state, now, height)) <= height
