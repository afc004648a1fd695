"""Names of arguments in messages: the nearest one to an unknown one, and options in place of keyword arguments."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from raycol.errors import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")

# Arguments of LanceDB, Qdrant, Chroma, PyLate and transformers, and their names here if these are not similar.
_ELSEWHERE = {
    "documents": ("corpus",),
    "index": ("target", "out"),
    "index_path": ("target", "out"),
    "limit": ("k",),
    "lr": ("learning_rate",),
    "n_results": ("k",),
    "output_dir": ("out",),
    "texts": ("corpus",),
}


def named_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: an unknown keyword argument, such as other libraries' `top_k`, raises `ArgumentError`."""
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    is_init = function.__name__ == "__init__"
    name = function.__qualname__.split(".")[-2] if is_init else function.__name__

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for unknown in kwargs:
            if unknown not in known:
                raise ArgumentError(f"{name} has no argument {unknown!r}; the nearest is {nearest(unknown, known)!r}")
        return function(*args, **kwargs)

    return call


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name that another name most likely means; one whose words it contains comes first."""
    words = set(name.split("_"))
    if within := [each for each in known if words >= set(each.split("_"))]:
        return max(within, key=len)
    same = [each for each in _ELSEWHERE.get(name, ()) if each in known]
    return (same or difflib.get_close_matches(name, known, n=1, cutoff=0.0))[0]


_KEYWORD = re.compile(r"`([a-z][a-z0-9_]*)=([^`]*)`")


def as_options(message: str) -> str:
    """Return a message of the library for the command line: `on_error='skip'` in backticks becomes --on-error skip."""
    return _KEYWORD.sub(_option, message)


def _option(keyword: re.Match[str]) -> str:
    name, value = keyword[1].replace("_", "-"), keyword[2].strip("'")
    if value in ("True", "False"):
        return f"--{name}" if value == "True" else f"--no-{name}"
    return f"--{name} {value}".rstrip()
