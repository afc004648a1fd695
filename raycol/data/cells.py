"""What stands in a cell of a training example, checked: a text, texts, an id, ids, scores.

Each function raises `ValueError` saying what was found and what was expected.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

import numpy as np

from raycol.data.corpus import encode_text, is_missing
from raycol.data.corpus import read_id as _read_id

# A longer list in quotes of Python's is refused: nobody has one.
_LARGEST_LITERAL = 1 << 22
# With the escapes that Python prints.
_ITEM = re.compile(r"""\s*('(?:[^'\\]|\\[\\'nrtxuU])*'|"(?:[^"\\]|\\[\\"nrtxuU])*"|[^\s,'"()\[\]{}]+)\s*(?:,|$)""")
_PYTHON = {"None": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def read_text(value: Any, name: str) -> str:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name!r} is {_show(value)}; expected a non-empty string")
    encode_text(repr(name), value)
    return value


def read_texts(value: Any, name: str, *, listed: bool) -> list[str]:
    """A text, a list of texts, or none at all. `listed`: a text is a list written as one.

    An object of a title and a text, as DPR and Tevatron have them, is both, joined by a space.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        if not listed:
            return [read_text(value, name)]
        value = parse_list(value, name)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} is {_show(value)}; expected a text or a list of texts")
    return [read_text(_text_of(item), f"{name}[{number}]") for number, item in enumerate(value)]


def _text_of(item: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return item
    title = item.get("title")
    return f"{title} {item['text']}".strip() if isinstance(title, str) else item["text"]


def read_id(value: Any, name: str) -> str:
    """An id; whole numbers are ids too."""
    return _read_id(value, repr(name))


def read_ids(value: Any, name: str, *, listed: bool) -> list[str]:
    """An id, a list of ids, or none at all. `listed`: a text is a list written as one."""
    if is_missing(value):
        return []
    if isinstance(value, str) and listed:
        value = parse_list(value, name)
    if isinstance(value, list | tuple | np.ndarray):
        return [read_id(item, f"{name}[{number}]") for number, item in enumerate(value)]
    return [read_id(value, name)]


def read_scores(value: Any, name: str) -> list[float]:
    """Finite numbers: a list of them, one written as a text, or a single number."""
    if isinstance(value, str):
        value = parse_list(value, name)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        raise ValueError(f"{name!r} is missing; expected a list of numbers, one a document")
    values = value if isinstance(value, list | tuple) else [value]
    return [_number(item, name if values is not value else f"{name}[{at}]") for at, item in enumerate(values)]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name!r} is {_show(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name!r} is {_show(value)}; expected a finite number")
    return number


def parse_list(text: str, name: str) -> Any:
    """What a text of JSON holds, or of a flat list of strings and numbers as Python prints it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    inner = text.strip()
    if len(text) <= _LARGEST_LITERAL and inner[:1] + inner[-1:] in ("[]", "()"):
        items = _items(inner[1:-1].strip())
        if items is not None:
            return items
    raise ValueError(f"{name!r} is the text {_show(text)}; expected a list, or one written in JSON")


def _items(inner: str) -> list[Any] | None:
    found: list[Any] = []
    at = 0
    while at < len(inner):
        match = _ITEM.match(inner, at)
        if not match:
            return None
        item, at = match[1], match.end()
        try:
            if item in _PYTHON:
                found.append(_PYTHON[item])
            else:  # one string: literal_eval has nothing to nest
                found.append(ast.literal_eval(item) if item[0] in "'\"" else json.loads(item))
        except (ValueError, SyntaxError):
            return None
    return found


def _show(value: Any) -> str:
    return f"{value!r:.100}"
