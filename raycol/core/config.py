"""Typed configuration of each verb, from defaults, a YAML file and the command line.

Each verb declares a subclass of `Config` beside the code that reads it. The string below a field documents it, in
`--help` as in the editor. Precedence: command line, then YAML, then default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from raycol.core.arguments import nearest
from raycol.core.uris import check_location, is_uri
from raycol.errors import InputError

Positive = Annotated[int, Field(ge=1)]
# Matches URIs also after `Path` has collapsed `s3://bucket` to `s3:/bucket`, which nobody means as a folder.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_COMMAND_LINE = "the command line"


def _parse_location(value: Any) -> str:
    if not isinstance(value, str | PurePath | int) or isinstance(value, bool):
        raise ValueError(f"expected a path or a URI, found a {type(value).__name__}")
    location = str(value)
    if not location:
        raise ValueError("expected a path or a URI, found an empty string")
    is_name = location.startswith(("hf:", "ir:", "exact:", "index:", "run:", "single:"))  # of a dataset or a system
    if _URI.match(location) and not is_uri(location) and not is_name:
        raise ValueError(f"{location:.200} is neither a path nor a URI; expected a string with :// for a URI")
    return location


# A local path, or a URI such as s3://bucket/prefix, without credentials.
Location = Annotated[str, BeforeValidator(_parse_location), AfterValidator(check_location)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | PurePath) else value


# Several values; a single one may be given as it is.
Locations = Annotated[tuple[Location, ...], BeforeValidator(_as_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


def _check_local(value: Any) -> Any:
    if _URI.match(str(value)):
        raise ValueError("expected a folder on this machine or on a shared disk, not a URI")
    return value


LocalPath = Annotated[Path, BeforeValidator(_check_local)]


def parse_mapping(value: Any) -> Any:
    """Parse `CPU=2,GPU=0.5` to a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    return {name.strip(): amount.strip() for name, _, amount in pairs}


def _check_resources(value: dict[str, float]) -> dict[str, float]:
    for name, amount in value.items():
        if not name or not 0 < amount < math.inf:
            raise ValueError(f"found {name}={amount:g}; expected NAME=AMOUNT with an amount above 0")
        if name == "object_store_memory":
            raise ValueError(f"found {name}, which workers cannot reserve; expected CPU, GPU, memory or your own")
    return {"CPU": 1.0, **value}


# Ray resources that a worker reserves, by name.
Resources = Annotated[dict[str, float], BeforeValidator(parse_mapping), AfterValidator(_check_resources)]


# Seconds that a job waits for the autoscaler to add nodes.
WaitForNodes = Annotated[float, Field(ge=0, le=86_400)]


class Config(BaseModel):
    """Base class of configurations: immutable, rejects unknown keys, every field documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def without_effect(self) -> dict[str, str]:
        """Return settings that others make ineffective, with the reason and what to do; they must not be set."""
        return {}

    def effective(self) -> dict[str, Any]:
        """Return the effective settings as JSON values; loading them gives an equivalent configuration."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(self.without_effect()))

    @model_validator(mode="after")
    def _refuse_without_effect(self) -> Self:
        for name, reason in self.without_effect().items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect: {reason}")
        return self

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        caller: str = _COMMAND_LINE,
    ) -> Self:
        """Load the configuration from a YAML file, if any, with `overrides` on top; overrides of None are ignored.

        Args:
            path: the YAML file.
            overrides: values by field.
            caller: where the overrides come from, for messages.

        Raises:
            InputError: the file is missing or not a YAML mapping, a key is unknown or missing, or a value is invalid.
        """
        values = read_yaml_mapping(path) if path else {}
        values.update({key: value for key, value in (overrides or {}).items() if value is not None})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # Report an unknown key first: a misspelt key also makes the required one missing.
            errors = sorted(error.errors(), key=lambda details: details["type"] != "extra_forbidden")
            key = errors[0]["loc"][0] if errors[0]["loc"] else ""
            from_caller = path is None or key in (overrides or {})
            raise InputError(cls._explain(errors[0], caller if from_caller else str(path))) from None

    @classmethod
    def _explain(cls, error: ErrorDetails, source: str) -> str:
        field = cls.model_fields.get(str(error["loc"][0])) if error["loc"] else None
        path = field_path(error["loc"])
        if error["type"] == "extra_forbidden":
            models = [cls] if field is None else models_within(field.annotation)
            known = [key for model in models for key in model.model_fields]
            near = nearest(str(error["loc"][-1]), known)
            return f"{source}: unknown key {path!r}; the nearest known key is {near!r}"
        if error["type"] == "missing" and (len(error["loc"]) > 1 or source != _COMMAND_LINE):
            return f"{source}: {path!r} is missing"
        if error["type"] == "missing":
            return f"{path!r} is missing: set it on the command line (see --help), or in a YAML file with --config"
        reason = error["msg"].removeprefix("Value error, ")
        if not path:
            return f"{source}: {reason}"
        # A URI may hold credentials, which no message repeats.
        value = "" if _URI.search(str(error["input"])) else f" is {error['input']!r:.200}"
        return f"{source}: {path}{value}: {reason[:1].lower()}{reason[1:]}"


def field_path(steps: Sequence[int | str], prefix: str = "") -> str:
    """Format the path of a setting: `data[0].weight`."""
    return (prefix + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)).lstrip(".")


def models_within(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models within a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_within(inner)


# Limits on a YAML file, in characters and in nesting depth, far above what settings need.
_MAX_YAML_CHARS = 1 << 18
_MAX_NESTING = 32


class _Loader(yaml.SafeLoader):
    """Reads the JSON subset of YAML. Aliases and merges can blow up a file, and tags construct other types.

    Dates stay strings. A duplicate key is an error.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node after checking it for aliases, tags and nesting."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if isinstance(event, yaml.AliasEvent):
            refused = f"the alias *{event.anchor:.40}, which is not supported; write out its value"
        elif getattr(event, "tag", None):
            refused = f"the tag {event.tag:.40}, which is not supported; remove it"
        elif self.depth == _MAX_NESTING:
            refused = f"values nested deeper than {_MAX_NESTING}"
        if refused:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; its keys must be unique strings or numbers."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is not a string", problem_mark=key.start_mark)
            if key.value == "<<" and key.style is None:
                what = "a merge (<<), which is not supported; write out its value"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r:.60}", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Resolvers by the first character of a value, without those of dates, merges (<<) and default values (=).
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises `InputError` for anything else."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_YAML_CHARS + 1)
        if len(text) > _MAX_YAML_CHARS:
            raise InputError(f"{path}: more than {_MAX_YAML_CHARS:,} characters; expected a YAML configuration")
        values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError) as error:  # an integer with too many digits raises ValueError
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of settings, found a {type(values).__name__}")
    if invalid := [key for key in values if not isinstance(key, str)]:
        raise InputError(f"{path}: the key {invalid[0]!r:.60} is not the name of a setting; expected a string")
    return values
