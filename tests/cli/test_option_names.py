"""Messages write settings as keyword arguments; the command line prints them as options."""

import ast
import re

import pytest

from raycol.core.arguments import as_options
from tests.cli.test_bad_input import run
from tests.conftest import PROJECT

# Options of other programs, of commands that a message names, and those that Python has no keyword for.
OTHERS = {"--generate", "--num-gpus", "--temp-dir", "--json", "--format", "--out", "--model", "--config", "--help"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass `model=`, or `index=`", "pass --model, or --index"),
        ("skip them with `on_error='skip'`", "skip them with --on-error skip"),
        ("`batch_size=64`; pass `allow_duplicates=True`", "--batch-size 64; pass --allow-duplicates"),
        ("rebuild it with `store_text=False`", "rebuild it with --no-store-text"),
        ("make `python -c 'a=1'` work; model='x' `a b=`", "make `python -c 'a=1'` work; model='x' `a b=`"),
    ],
)
def test_keyword_arguments_become_options(message: str, expected: str) -> None:
    assert as_options(message) == expected


def test_the_command_line_prints_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "scifact") == 2
    assert "error: nothing to evaluate: pass --model, --index or --system\n" in capsys.readouterr().err


@pytest.mark.slow
def test_messages_outside_the_command_line_name_no_options() -> None:
    for path in (PROJECT / "raycol").rglob("*.py"):
        part = path.relative_to(PROJECT / "raycol").parts[0]
        if part in ("cli", "jobs", "display.py"):
            continue
        tree = ast.parse(path.read_text())
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
                assert {*re.findall(r"--[a-z][a-z-]*[a-z]\b(?!-)", node.value)} <= OTHERS, f"{path}:{node.lineno}"
