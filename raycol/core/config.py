"""Configuration: one typed object per verb, from defaults, a YAML file and the command line.

Each verb declares a subclass of `Config` beside the code that reads it; the string below a field is its
documentation, in `--help` as in the editor. Precedence: command line, then YAML, then the default.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from raycol.core.uris import check_location, is_uri
from raycol.errors import InputError

Positive = Annotated[int, Field(ge=1)]
# As a path, `s3://bucket/x` is `s3:/bucket/x`: a folder of that name is not what anyone wants.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def _whole(value: Any) -> str:
    if not isinstance(value, str | PurePath | int) or isinstance(value, bool):
        raise ValueError(f"expected a path or a URI, found a {type(value).__name__}")
    location = str(value)
    if not location:
        raise ValueError("expected a path or a URI, found an empty text")
    if _URI.match(location) and not is_uri(location) and not location.startswith("hf:"):  # a dataset's name or folder
        raise ValueError(f"{location:.200} is neither a path nor a URI, which has :// and is given as text")
    return location


# Where something is: a local path, or a URI such as s3://bucket/prefix, without credentials.
Location = Annotated[str, BeforeValidator(_whole), AfterValidator(check_location)]


def _check_local(value: Any) -> Any:
    if _URI.match(str(value)):
        raise ValueError("expected a folder of this machine, or of a shared disk, not a URI")
    return value


LocalPath = Annotated[Path, BeforeValidator(_check_local)]


def _parse_resources(value: Any) -> Any:
    """`CPU=2,GPU=0.5` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    return {name.strip(): amount.strip() for name, _, amount in pairs}


def _check_resources(value: dict[str, float]) -> dict[str, float]:
    for name, amount in value.items():
        if not name or not 0 < amount < math.inf:
            raise ValueError(f"found {name}={amount:g}; expected NAME=AMOUNT, the amount above 0")
        if name == "object_store_memory":
            raise ValueError(f"found {name}, which no worker can be given; expected CPU, GPU, memory or your own")
    return {"CPU": 1.0, **value}


# What a worker needs of the cluster, by Ray's names.
Resources = Annotated[dict[str, float], BeforeValidator(_parse_resources), AfterValidator(_check_resources)]


# How long a job waits for nodes that a cluster's autoscaler adds for it.
WaitForNodes = Annotated[float, Field(ge=0, le=86_400)]


class Config(BaseModel):
    """Base of every verb's configuration: immutable, no unknown keys, documented field by field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def without_effect(self) -> dict[str, str]:
        """Settings that nothing reads beside the others, each with why and what to do; refused if they are given."""
        return {}

    def effective(self) -> dict[str, Any]:
        """The settings that have an effect, as JSON has them: what makes the same configuration again."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(self.without_effect()))

    @model_validator(mode="after")
    def _refuse_without_effect(self) -> Self:
        for name, reason in self.without_effect().items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect: {reason}")
        return self

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Self:
        """Build the configuration from a YAML file (if any) with `overrides` on top.

        Raises:
            InputError: the file is missing or not a YAML mapping, a key is unknown (the nearest known
                one is named), a required one is absent, or a value is out of range.
        """
        values = read_yaml_mapping(path) if path else {}
        values.update({key: value for key, value in (overrides or {}).items() if value is not None})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # An unknown key first: a misspelt one makes another seem to be missing.
            errors = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
            key = errors[0]["loc"][0] if errors[0]["loc"] else ""
            typed = path is None or key in (overrides or {})
            raise InputError(cls._explain(errors[0], "the command line" if typed else str(path))) from None

    @classmethod
    def _explain(cls, error: ErrorDetails, source: str) -> str:
        outer = cls.model_fields.get(str(error["loc"][0])) if error["loc"] else None
        place = field_path(error["loc"])
        if error["type"] == "extra_forbidden":
            within = [cls] if outer is None else models_within(outer.annotation)
            known = [key for model in within for key in model.model_fields]
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.0)
            return f"{source}: unknown key {place!r}; the nearest known key is {near[0]!r}"
        if error["type"] == "missing" and len(error["loc"]) > 1:
            return f"{source}: {place!r} is missing"
        if error["type"] == "missing":
            return f"{place!r} is missing: give it on the command line (see --help), or in a YAML file with --config"
        reason = error["msg"].removeprefix("Value error, ")
        if not place:
            return f"{source}: {reason}"
        # URIs may hold what no message repeats.
        found = "" if _URI.search(str(error["input"])) else f" is {error['input']!r:.200}"
        return f"{source}: {place}{found}: {reason[:1].lower()}{reason[1:]}"


def field_path(steps: Sequence[int | str], within: str = "") -> str:
    """Where something is in a configuration: `data[0].weight`."""
    return (within + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)).lstrip(".")


def models_within(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field of this type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_within(inner)


# Characters of a YAML file, and how deep its values may be: settings take far fewer.
_LARGEST_YAML = 1 << 18
_MOST_NESTING = 32


class _Loader(yaml.SafeLoader):
    """Reads what JSON has too: aliases and merges multiply what a file holds, tags make other types of it.

    Dates stay text. A key that comes twice is refused, not replaced.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value, and what it holds."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if isinstance(event, yaml.AliasEvent):
            refused = f"the alias *{event.anchor:.40}, which is not read; write out what it stands for"
        elif getattr(event, "tag", None):
            refused = f"the tag {event.tag:.40}, which is not read; leave it out"
        elif self.depth == _MOST_NESTING:
            refused = f"values nested deeper than {_MOST_NESTING}"
        if refused:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts or numbers, each once."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no text", problem_mark=key.start_mark)
            if key.value == "<<" and key.style is None:
                what = "a merge (<<), which is not read; write out what it stands for"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r:.60} twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# By the first character of a value; those of dates, merges (<<) and default values (=) are left out.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises `InputError` for anything else."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST_YAML + 1)
        if len(text) > _LARGEST_YAML:
            raise InputError(f"{path}: more than {_LARGEST_YAML:,} characters; expected a YAML configuration")
        values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError) as error:  # a number of too many digits is a ValueError
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of settings, found a {type(values).__name__}")
    if odd := [key for key in values if not isinstance(key, str)]:
        raise InputError(f"{path}: {odd[0]!r:.60} is no name of a setting; expected text")
    return values
