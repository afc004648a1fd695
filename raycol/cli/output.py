"""The output of a command: its result as lines, or with --json as JSON."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from raycol.core.escaping import echo, is_safe
from raycol.errors import InputError

_JSON = inspect.Parameter(
    "json_",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")],
)


@dataclass(frozen=True)
class Output:
    """Result of a command, and how to print it.

    Args:
        result: what the verb's function returns.
        show: prints the result as lines.
        exit_code: of the command.
        no_json: why the command has no JSON in this case; empty if it has.
    """

    result: Any
    show: Callable[[Any], None]
    exit_code: int = 0
    no_json: str = ""


def with_json(command: Callable[..., Output]) -> Callable[..., None]:
    """Decorate a command that returns its output: print that as lines, or with --json as JSON.

    With --json, standard output has nothing else: what libraries and workers print goes to standard error.
    """

    def run(json_: bool = False, **values: Any) -> None:
        with redirect_stdout(sys.stderr) if json_ else nullcontext():
            output = command(**values)
        if not json_:
            output.show(output.result)
        elif output.no_json:
            raise InputError(f"--json: {output.no_json}")
        else:
            echo(as_json(output.result))
        if output.exit_code:
            raise typer.Exit(output.exit_code)

    signature = inspect.signature(command, eval_str=True)
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]
    run.__signature__ = inspect.Signature([*parameters, _JSON])  # type: ignore[attr-defined]
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def as_json(result: object) -> str:
    """Return a result as JSON on one line: its fields are the keys, and a number that is not finite is null.

    Characters that could control a terminal are escaped, all others are kept.
    """
    values = to_jsonable_python(result, inf_nan_mode="null")
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else "".join(c if is_safe(c) else json.dumps(c)[1:-1] for c in text)
