"""Command-line options from a configuration class, so that each setting is defined once."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from raycol.core.config import Config
from raycol.errors import InputError

C = TypeVar("C", bound=Config)
T = TypeVar("T")


def options_of(
    config_class: type[C], *arguments: str, recipe: bool = False
) -> Callable[[Callable[[C], T]], Callable[..., T]]:
    """Decorate a function of a configuration as a command with one option for each field.

    Options default to None, so that the YAML file and the class supply the values of those not passed.

    Args:
        config_class: the verb's configuration.
        arguments: fields that are positional on the command line.
        recipe: also accept the YAML file as an argument, for verbs with many settings.
    """

    def decorate(run: Callable[[C], T]) -> Callable[..., T]:
        def command(config: Path | None = None, recipe_: Path | None = None, **values: Any) -> T:
            passed = {name: value for name, value in values.items() if value not in (None, [], ())}
            if config and recipe_:
                raise InputError(f"two files of settings, {recipe_} and --config {config}; pass one of them")
            return run(config_class.load(config or recipe_, passed))

        parameters = [_parameter(name, config_class.model_fields[name], positional=True) for name in arguments]
        parameters += [_RECIPE] * recipe
        parameters.append(_CONFIG)
        parameters += option_parameters(config_class, leave_out=arguments)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = run.__doc__
        command.__name__ = run.__name__
        return command

    return decorate


def given(config: Config) -> dict[str, Any]:
    """Return the settings that were passed, as arguments of the verb's function in `raycol.verbs`."""
    return {name: getattr(config, name) for name in config.model_fields_set}


def option_parameters(config_class: type[Config], leave_out: Collection[str] = ()) -> list[inspect.Parameter]:
    """Return a command's parameters, one option for each field of a configuration."""
    return [
        _parameter(name, field, positional=False)
        for name, field in config_class.model_fields.items()
        if name not in leave_out
    ]


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file of these settings; options override it.")
    ],
)


_RECIPE = inspect.Parameter(
    "recipe_",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, typer.Argument(help="YAML file of the settings below.", metavar="RECIPE", show_default=False)
    ],
)


def _parameter(name: str, field: FieldInfo, *, positional: bool) -> inspect.Parameter:
    kind, choices = _type_of(field.annotation)
    help_ = " ".join((field.description or "").split())
    if positional:
        # Optional for typer, since the YAML file may set it. The configuration reports it if it is missing.
        argument = typer.Argument(help=help_, show_default=False)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, argument]
        )
    flag = "--" + name.replace("_", "-")
    short = [f"-{name}"] if len(name) == 1 else []
    if field.is_required():
        help_ += " [required]"
    elif field.default is not None:
        help_ += f" [default: {str(field.default).lower() if kind is bool else field.default}]"
    option = typer.Option(
        *short,
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=help_,
        metavar="|".join(choices) if choices else None,
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _type_of(annotation: Any) -> tuple[Any, list[str]]:
    """The type that typer parses for an annotation, and the choices of a Literal."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in get_args(annotation) if argument is not type(None))
        return _type_of(inner)
    if origin is tuple:
        return list[str], []
    if origin is dict:
        return str, []  # the configuration class parses it
    if origin is Literal:
        values = get_args(annotation)
        return type(values[0]), [str(value) for value in values]
    return annotation, []
