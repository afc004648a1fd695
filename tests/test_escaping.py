"""Text of documents, files and servers cannot control the terminal it is printed on."""

import ast
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol import display
from raycol.cli.main import main
from raycol.client.schema import SearchHit
from raycol.core import progress
from raycol.core.escaping import printable, printable_log
from tests.conftest import PROJECT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, naïve 日本語 👩‍💻\tand tabs", None),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("over\rwritten", r"over\rwritten"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\x7f\x08", r"\x7f\x08"),
        ("\x85", r"\x85"),
        ("\ud800", r"\ud800"),
        ("क\u200dष", None),
        ("two\nlines", None),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


@given(st.text())
def test_no_control_character_is_printed(text: str) -> None:
    escaped = printable(text)
    assert not [c for c in escaped if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]


def test_hits_and_errors_are_printed_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]52;c;aGk=\x07"
    display.hits(f"a {evil}", [SearchHit(id=evil, score=1.0, text=f"rain {evil}", metadata={})])
    assert capsys.readouterr().out.count(r"\x1b]52;c;aGk=\x07") == 3
    with pytest.raises(SystemExit):
        main(["index", "info", str(tmp_path / evil)])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert r"\x1b]52" in printed.err


EVIL = "\x1b]0;owned\x07"


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_and_notices_are_printed_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    output = io.StringIO()
    console = type(progress.console)(file=output, force_terminal=terminal, width=200, highlight=False, markup=False)
    monkeypatch.setattr(progress, "console", console)
    with progress.progress(f"Reading {EVIL}") as report:
        report(1, 2, f"at {EVIL} [red]as it is[/]")
        console.print(f"skipped {EVIL} [bold]")
    shown = output.getvalue()
    assert EVIL not in shown
    assert "\x07" not in shown
    assert r"Reading \x1b]0;owned\x07" in shown
    assert r"at \x1b]0;owned\x07 [red]as it is[/]" in shown
    assert r"skipped \x1b]0;owned\x07 [bold]" in shown


def test_a_log_is_printed_without_colours_and_escaped() -> None:
    log = f"\x1b[36m(worker pid=7)\x1b[0m 10%\r20%\r\ndone {EVIL}\n"
    assert printable_log(log) == "(worker pid=7) 10%\n20%\ndone \\x1b]0;owned\\x07\n"


@pytest.mark.slow
def test_all_output_goes_through_echo_or_the_console() -> None:
    """`echo` and `progress.console` escape text; other consoles print tables whose cells are already escaped."""
    calls = set()
    for path in (PROJECT / "raycol").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write", "Console", "click.echo"):
                    calls.add((path.relative_to(PROJECT / "raycol").as_posix(), called))
    assert calls == {
        ("core/escaping.py", "typer.echo"),
        ("cli/jobs.py", "Console"),
        ("cli/doctor.py", "Console"),
        ("display.py", "Console"),
    }
