"""Results as text and as tables: a short `repr`, and HTML where a notebook shows a value."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

# Characters of a cell's text; a notebook shows the whole text in no table.
_MAX_CELL = 300


class Shown:
    """Mixin of results: `repr` has the main fields, `_repr_html_` is a table of all of them.

    Place it before other base classes; a dataclass needs `repr=False`.
    """

    _main: ClassVar[tuple[str, ...]] = ()
    """Names of the fields and properties in `repr`."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_repr(getattr(self, name))}" for name in self._main)
        return f"{type(self).__name__}({fields})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        fields = dict.fromkeys((*self._main, *getattr(type(self), "__annotations__", {})))
        rows = [(name, _cell(getattr(self, name))) for name in fields if not name.startswith("_")]
        return html_table((type(self).__name__, ""), rows)


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """An HTML table of escaped cells; floats have four digits after the point, long texts are cut."""
    head = "".join(f"<th style='text-align:left'>{_escaped(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{_escaped(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    title = f"<caption style='text-align:left'><b>{_escaped(caption)}</b></caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _escaped(cell: object) -> str:
    text = f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell)
    return html.escape(text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…")


def _repr(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_repr(inner)}" for name, inner in value.items()) + "}"
    return repr(value)


def _cell(value: Any) -> str:
    """A field's value for a table: mappings on one line, long lists as their length."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) if len(value) <= 5 else f"{len(value):,} values"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
