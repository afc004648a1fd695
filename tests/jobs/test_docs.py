"""`raycol` parses the commands in the docs about jobs."""

import re
import shlex

import pytest
import typer.main

from raycol.cli.commands import app
from tests.conftest import PROJECT

TEXTS = [PROJECT / "docs" / "jobs.md", *sorted((PROJECT / "jobs").rglob("*.py"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_parse(path) -> None:
    found = re.findall(r"^ {4}raycol (.*)$", path.read_text(), re.MULTILINE)
    assert found
    for line in found:
        command, rest = typer.main.get_command(app), shlex.split(line, comments=True)
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        values, left, _ = command.make_parser(command.context_class(command)).parse_args(rest)
        assert not left
        assert values["address"] == "http://HEAD:8265"
