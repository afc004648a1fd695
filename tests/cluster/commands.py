"""Commands in YAML files, their comments and other text: found, and checked to name what exists.

A command is a line of a comment that is indented by three spaces or more, or a string where a file has a command.
Programs that are Python's (ray, serve, raycol, pip) are asked whether they have the verb and its options; files must
be there, or be made by a command of the same file.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from pip._internal.commands import commands_dict, create_command

from raycol.cli.commands import app
from raycol.errors import InputError
from raycol.indexing.config import AppendConfig, IndexConfig
from raycol.jobs.submit import SubmitConfig
from raycol.training.config import TrainConfig
from tests.conftest import PROJECT

# What else may stand first on a line: verbs of theirs that are used here.
_OTHERS = {
    "kubectl": {"apply", "create", "get", "port-forward", "exec"},
    "helm": {"install", "repo"},
    "aws": {"ssm"},
    "gcloud": {"compute"},
    "podman": {"build"},
    "sudo": {"apt-get"},
    "openssl": {"rand"},
}
_SHELL = {"ulimit", "set", "export"}
# Verbs whose settings are checked too, not only their names.
_SETTINGS = {"build": IndexConfig, "append": AppendConfig, "train": TrainConfig}
_COMMENT = re.compile(r"^\s*#\s{3,}(\S.*?)(?:\s{4,}\(.*)?$")
# Made by the commands that the files' heads begin with, or by their user.
_MADE = {"dist", "keys.json", "raycol-*.whl"}


class CommandError(Exception):
    """A command that names something that does not exist."""


def in_comments(text: str) -> Iterator[str]:
    """Commands in the comments of a file."""
    for line in text.splitlines():
        if found := _COMMENT.match(line):
            yield found[1]


def check(line: str) -> None:
    """Raise CommandError where a line of shell names a program, verb, option or file that does not exist."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in (";", "&&", "||", "|"):
            words.append(word)
            continue
        if words:
            _check_words(words)
        words = []


def _check_words(words: list[str]) -> None:
    if any("spot=" in word for word in words) and "--wait-for-nodes" not in words:
        raise CommandError("spot nodes are there once they are asked for; --wait-for-nodes asks and waits")
    while "=" in words[0]:  # a variable for this command alone
        words = words[1:]
    program, *arguments = words
    if program == ".":
        return _check_files([f"cluster/{Path(arguments[0]).name}"])
    program = Path(program).name
    if program in _SHELL:
        return None
    if program in ("python", "python3"):
        return _check_python(arguments)
    if program == "pip":
        return _check_pip(arguments)
    if program in ("ray", "serve", "raycol"):
        return _check_verb(_command(program), arguments)
    if arguments[:1] and arguments[0] in _OTHERS.get(program, ()):
        return _check_files([word for flag, word in pairwise(arguments) if flag in ("-f", "--file")])
    raise CommandError(f"nothing is called {program} {' '.join(arguments[:1])}")


@functools.cache
def _command(program: str) -> Any:
    """A program's click or typer command; Ray's take seconds to import."""
    if program == "raycol":
        return typer.main.get_command(app)
    if program == "serve":
        from ray.serve.scripts import cli
    else:
        from ray.scripts.scripts import cli
    return cli


def _check_verb(command: Any, rest: list[str]) -> None:
    """Follow the verbs of a click or typer program, then have its own parser read the options."""
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise CommandError(f"{command.name} has no {rest[:1]}")
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        values, _, _ = command.make_parser(command.context_class(command)).parse_args(list(rest))
        if settings := _SETTINGS.get(command.name):
            given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            for name in SubmitConfig.model_fields:  # of `raycol submit`, whose verbs have the same names
                given.pop(name, None)
            recipe = given.pop("recipe_", given.pop("file", None))
            settings.load(PROJECT / recipe if isinstance(recipe, str) else None, given)
    except InputError as error:
        raise CommandError(f"{command.name}: {error}") from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer has a copy of click of its own, and so two kinds of errors
            raise
        raise CommandError(f"{command.name}: {error.format_message()}") from None
    words = [value for value in values.values() if isinstance(value, str)]
    _check_files([word for word in words if word.endswith((".yaml", ".py")) and not word.startswith("~")])
    if "entrypoint" in values:
        _check_words(list(values["entrypoint"]))


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        if arguments[1] == "pip":
            _check_pip(arguments[2:])
        elif importlib.util.find_spec(arguments[1]) is None:
            raise CommandError(f"there is no module {arguments[1]}")
        else:
            _check_files([word for word in arguments[2:] if word.endswith(".yaml")])
        return
    _check_files(arguments[:1])
    text = (PROJECT / arguments[0]).read_text()
    if verb := re.search(r"main\(\[(.*), \*sys\.argv\[1:\]\]\)", text):
        _check_verb(_command("raycol"), [*re.findall(r'"([\w-]+)"', verb[1]), *arguments[1:]])
    else:
        scope: dict[str, object] = {"__name__": "checked"}
        exec(compile(text, arguments[0], "exec"), scope)
        alone = typer.Typer()
        alone.command()(scope["main"])
        _check_verb(typer.main.get_command(alone), arguments[1:])


def _check_pip(arguments: list[str]) -> None:
    if arguments[0] not in commands_dict:
        raise CommandError(f"pip has no {arguments[0]}")
    try:
        create_command(arguments[0]).parser.parse_args(arguments[1:])
    except SystemExit:
        raise CommandError(f"pip {arguments[0]} does not take {arguments[1:]}") from None
    _check_files([Path(file).name for flag, file in pairwise(arguments) if flag in ("-c", "--constraint")])


def _check_files(files: list[str]) -> None:
    for file in files:
        if file not in _MADE and not (PROJECT / file).exists():
            raise CommandError(f"there is no {file}")
