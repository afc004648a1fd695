"""Arguments of the verbs: types, documentation and configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from raycol.core.arguments import named_arguments
from raycol.core.config import Config
from raycol.data.sources import ExampleSource

Corpus = Any
"""A corpus: a path or a URI, dicts, or a table; see `stored_corpus`."""

Examples = str | Path | Mapping[str, Any] | ExampleSource | Sequence[str | Path | Mapping[str, Any] | ExampleSource]
"""Sources of training examples."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)

ONE_CPU: Mapping[str, float] = {"CPU": 1.0}


def documented(config_class: type[Config]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Add the configuration's fields to a function's docstring; an unknown argument raises `ArgumentError`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        doc = inspect.cleandoc(function.__doc__ or "")
        fields = config_class.model_fields
        lines = [
            f"    {name}: {' '.join((fields[name].description or '').split())}"
            for name in inspect.signature(function).parameters
            if name in fields and f"    {name}:" not in doc
        ]
        function.__doc__ = "\n".join([doc, *([""] if "Args:" in doc else ["", "Args:"]), *lines])
        return named_arguments(function)

    return decorate


def settings_of(config_class: type[C], verb: str, values: Mapping[str, Any]) -> C:
    """A verb's configuration of a function's arguments. Arguments of the default value count as not passed."""
    fields = config_class.model_fields
    passed = {
        name: value
        for name, value in values.items()
        if name in fields and (fields[name].is_required() or value != fields[name].default)
    }
    return config_class.load(None, passed, f"raycol.{verb}")
