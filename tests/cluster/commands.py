"""Find the commands in YAML files, their comments and other text, and check them.

A command is a comment line indented by three or more spaces, or a string in a command field of a file. The parsers of
Python programs (ray, serve, raycol, pip) check verb and options; files must exist, or be created by a command of the
same file.
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

# Other programs, and the verbs used of each.
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
# Verbs whose option values are checked too.
_SETTINGS = {"build": IndexConfig, "append": AppendConfig, "train": TrainConfig}
_COMMENT = re.compile(r"^\s*#\s{3,}(\S.*?)(?:\s{4,}\(.*)?$")
# Created by the first commands of a file, or by the user.
_MADE = {"dist", "keys.json", "raycol-*.whl"}


class CommandError(Exception):
    """A command with an unknown program, verb, option or file."""


def in_comments(text: str) -> Iterator[str]:
    """Yield the commands in the comments of a file."""
    for line in text.splitlines():
        if match := _COMMENT.match(line):
            yield match[1]


def check(line: str) -> None:
    """Raise CommandError if a line of shell has an unknown program, verb, option or file."""
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
        raise CommandError("spot nodes start on demand; pass --wait-for-nodes")
    while "=" in words[0]:  # a variable of this command
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
    raise CommandError(f"unknown program or verb: {program} {' '.join(arguments[:1])}")


@functools.cache
def _command(program: str) -> Any:
    """Return a program's click or typer command; Ray's take seconds to import."""
    if program == "raycol":
        return typer.main.get_command(app)
    if program == "serve":
        from ray.serve.scripts import cli
    else:
        from ray.scripts.scripts import cli
    return cli


def _check_verb(command: Any, rest: list[str]) -> None:
    """Resolve the verbs of a click or typer program, then parse the options with its parser."""
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise CommandError(f"{command.name} has no {rest[:1]}")
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        values, _, _ = command.make_parser(command.context_class(command)).parse_args(list(rest))
        if settings := _SETTINGS.get(command.name):
            options = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            for name in SubmitConfig.model_fields:  # options of `raycol submit`, whose verbs have the same names
                options.pop(name, None)
            recipe = options.pop("recipe_", options.pop("file", None))
            settings.load(PROJECT / recipe if isinstance(recipe, str) else None, options)
    except InputError as error:
        raise CommandError(f"{command.name}: {error}") from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer vendors click, so there are two classes of usage errors
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
            raise CommandError(f"no module {arguments[1]}")
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
        script = typer.Typer()
        script.command()(scope["main"])
        _check_verb(typer.main.get_command(script), arguments[1:])


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
