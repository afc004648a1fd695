"""CSV and TSV with positions. CSV is as RFC 4180 has it, with quotes; TSV has none, as MS MARCO's files have none."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

from raycol.data.files import open_lines
from raycol.data.position import START, Position
from raycol.errors import InputError

# A quote that is never closed would take in the rest of the file.
_LARGEST_FIELD = 1 << 26
# Files without a header, by their number of fields, as ColBERT's collection.tsv.
_WITHOUT_HEADER = {2: ["id", "text"], 3: ["id", "text", "title"]}


def read_delimited(
    uri: str,
    delimiter: str,
    known: Collection[str],
    choose: Callable[[list[str]], list[str]],
    start: Position = START,
) -> Iterator[tuple[Position, dict[str, Any] | str]]:
    """Yield each record from `start` with its position; what is wrong with it, as text, where it is unusable.

    The first line names the columns if one of the names is in `known`; otherwise the columns are an id and a text,
    or an id, a text and a title. `choose` picks from the names of columns.

    Raises:
        InputError: the file is missing or cannot be read, or its columns cannot be told.
    """
    names, first = _header(uri, delimiter, known)
    wanted = set(choose(names))
    if first is None:
        return
    start = first if start.offset < first.offset else start
    for position, fields in _rows(uri, delimiter, start):
        if isinstance(fields, str):
            yield position, fields
        elif len(fields) != len(names):
            yield position, f"{len(fields)} fields where the file has {len(names)} columns"
        else:
            yield position, {name: field for name, field in zip(names, fields, strict=True) if name in wanted}


def _header(uri: str, delimiter: str, known: Collection[str]) -> tuple[list[str], Position | None]:
    """The columns' names, and where the records begin if there are any."""
    rows = _rows(uri, delimiter, START)
    _, fields = next(rows, (START, []))
    if isinstance(fields, str):
        raise InputError(f"{uri}, line 1: {fields}")
    if any(field in known for field in fields):
        if len(set(fields)) < len(fields):
            raise InputError(f"{uri}, line 1: a column's name comes twice ({', '.join(fields)})")
        second = next(_rows(uri, delimiter, START, skip=1), None)
        return fields, second[0] if second else None
    if not fields or len(fields) not in _WITHOUT_HEADER:
        raise InputError(
            f"{uri}, line 1: no column here is known by its name ({', '.join(fields)[:80] or 'an empty line'}); "
            "name the columns of id and text, or of a header-less file have an id, a text and perhaps a title"
        )
    return _WITHOUT_HEADER[len(fields)], START


def _rows(uri: str, delimiter: str, start: Position, skip: int = 0) -> Iterator[tuple[Position, list[str] | str]]:
    """Rows and where they start. The csv module takes just the lines that a row needs, which tells where it ends."""
    csv.field_size_limit(_LARGEST_FIELD)
    here = start

    with open_lines(uri, start.offset) as file:

        def lines() -> Iterator[str]:
            nonlocal here
            for line in file:
                first, here = here == START, Position(here.offset + len(line), here.number + 1)
                # What is not UTF-8 turns into halves of surrogate pairs, which the checks of a passage refuse.
                yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode("utf-8", "surrogateescape")

        tsv = delimiter == "\t"
        quoting: Literal[0, 3] = csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL
        rows = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            position = here
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                # What the module says of carriage returns is advice for programmers.
                what = "a carriage return that ends no line" if "new-line" in str(error) else error
                yield position, f"not a row of {'TSV' if tsv else 'CSV'} ({what})"
                continue
            if not row:
                continue
            if skip:
                skip -= 1
                continue
            yield position, row
