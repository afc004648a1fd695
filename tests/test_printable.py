"""What documents, files and servers say cannot control the terminal that it is printed on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol import show
from raycol.cli.main import main
from raycol.printable import printable
from raycol.serving.schema import SearchHit


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
def test_controls_are_shown_as_escapes(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


@given(st.text())
def test_nothing_printed_is_a_control(text: str) -> None:
    left = printable(text)
    assert not [c for c in left if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]


def test_hits_and_errors_are_printed_without_controls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]52;c;aGk=\x07"
    show.hits(f"a {evil}", [SearchHit(id=evil, score=1.0, text=f"rain {evil}", metadata={})])
    assert capsys.readouterr().out.count(r"\x1b]52;c;aGk=\x07") == 3
    with pytest.raises(SystemExit):
        main(["index", "info", str(tmp_path / evil)])
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert r"\x1b]52" in told.err
