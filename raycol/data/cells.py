"""Parse and validate the cells of a training example: texts, ids and scores.

Every function raises `ValueError` with the name and the value of an invalid cell.
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

# Limit on a list in Python's syntax, in characters.
_LARGEST_LITERAL = 1 << 22
# A string with the escapes that `repr` prints, or a number.
_ITEM = re.compile(r"""\s*('(?:[^'\\]|\\[\\'nrtxuU])*'|"(?:[^"\\]|\\[\\"nrtxuU])*"|[^\s,'"()\[\]{}]+)\s*(?:,|$)""")
_PYTHON = {"None": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def read_text(value: Any, name: str) -> str:
    """A non-blank text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name!r} is {_show(value)}; expected a non-empty string")
    encode_text(repr(name), value)
    return value


def read_texts(value: Any, name: str, *, is_list: bool) -> list[str]:
    """The texts of a cell with a text, a list of texts, or nothing.

    An object with a title and a text, as in DPR and Tevatron, becomes both, joined by a space.

    Args:
        value: the cell.
        name: its column.
        is_list: parse a string as a serialised list.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        if not is_list:
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
    """An id as a string; integers are converted."""
    return _read_id(value, repr(name))


def read_ids(value: Any, name: str, *, is_list: bool) -> list[str]:
    """The ids of a cell with an id, a list of ids, or nothing. `is_list` parses a string as a serialised list."""
    if is_missing(value):
        return []
    if isinstance(value, str) and is_list:
        value = parse_list(value, name)
    if isinstance(value, list | tuple | np.ndarray):
        return [read_id(item, f"{name}[{number}]") for number, item in enumerate(value)]
    return [read_id(value, name)]


def read_scores(value: Any, name: str) -> list[float]:
    """The scores of a cell with a list of finite numbers, the same serialised as a string, or a single number."""
    if isinstance(value, str):
        value = parse_list(value, name)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        raise ValueError(f"{name!r} is missing; expected a list of numbers, one for each document")
    values = value if isinstance(value, list | tuple) else [value]
    return [_number(item, name if values is not value else f"{name}[{index}]") for index, item in enumerate(values)]


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
    """Parse JSON, or a flat list of strings and numbers as printed by Python."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    inner = text.strip()
    if len(text) <= _LARGEST_LITERAL and inner[:1] + inner[-1:] in ("[]", "()"):
        items = _items(inner[1:-1].strip())
        if items is not None:
            return items
    raise ValueError(f"{name!r} is the text {_show(text)}; expected a list, or a list serialised as JSON")


def _items(inner: str) -> list[Any] | None:
    items: list[Any] = []
    position = 0
    while position < len(inner):
        match = _ITEM.match(inner, position)
        if not match:
            return None
        item, position = match[1], match.end()
        try:
            if item in _PYTHON:
                items.append(_PYTHON[item])
            else:  # a single string: literal_eval cannot recurse
                items.append(ast.literal_eval(item) if item[0] in "'\"" else json.loads(item))
        except (ValueError, SyntaxError):
            return None
    return items


def _show(value: Any) -> str:
    return f"{value!r:.100}"
