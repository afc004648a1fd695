"""CSV and TSV with positions.

CSV is as RFC 4180 has it, with quotes, and has a header; TSV has no quotes and perhaps no header, as MS MARCO's files.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Literal

from raycol.data.files import open_lines
from raycol.data.position import START, Position
from raycol.errors import InputError

Kind = Literal["csv", "tsv"]

# A quote that is never closed would take in the rest of the file.
_LARGEST_FIELD = 1 << 26
# TSV files without a header, by their number of fields, as ColBERT's collection.tsv.
_WITHOUT_HEADER = {2: ["id", "text"], 3: ["id", "text", "title"]}


def read_delimited(
    uri: str,
    kind: Kind,
    knows: Callable[[str], bool],
    choose: Callable[[list[str]], list[str]],
    start: Position = START,
) -> Iterator[tuple[Position, dict[str, Any] | str]]:
    """Yield each record from `start` with its position; what is wrong with it, as text, where it is unusable.

    The first line names the columns if `knows` one of them; otherwise those of TSV are an id and a text, or an id, a
    text and a title. `choose` picks from the names of columns. An empty file has no records.

    Raises:
        InputError: the file is missing or cannot be read, or its columns cannot be told.
    """
    names, first = _header(uri, kind, knows)
    wanted = set(choose(names)) if names else set()
    if first is None:
        return
    start = first if start.offset < first.offset else start
    for position, fields, n_lines in _rows(uri, kind, start):
        if isinstance(fields, str):
            yield position, fields + _taking(n_lines)
        elif len(fields) != len(names):
            yield position, f"{len(fields)} fields where the file has {len(names)} columns" + _taking(n_lines)
        else:
            yield position, {name: field for name, field in zip(names, fields, strict=True) if name in wanted}


def _taking(n_lines: int) -> str:
    """A quote that is not closed, or closed by the next one, makes one record of many: that is to be said."""
    return f"; it takes in {n_lines} lines, since a quote opens in it" if n_lines > 1 else ""


def _header(uri: str, kind: Kind, knows: Callable[[str], bool]) -> tuple[list[str], Position | None]:
    """The columns' names, none in an empty file, and where the records begin if there are any."""
    with closing(_rows(uri, kind, START)) as rows:
        _, fields, n_lines = next(rows, (START, [], 0))
        if isinstance(fields, str):
            raise InputError(f"{uri}, line 1: {fields}{_taking(n_lines)}")
        if any(map(knows, fields)):
            if len(set(fields)) < len(fields):
                raise InputError(f"{uri}, line 1: a column's name comes twice ({', '.join(fields)})")
            second = next(rows, None)
            return fields, second[0] if second else None
    if kind == "tsv" and len(fields) in _WITHOUT_HEADER:
        return _WITHOUT_HEADER[len(fields)], START
    if fields:
        without = ", and without a header there are an id, a text and perhaps a title" if kind == "tsv" else ""
        raise InputError(
            f"{uri}, line 1: no column here is known by its name ({', '.join(fields)[:80]}); "
            f"name those of id and text with --id-column and --text-column{without}"
        )
    return [], None


def _rows(uri: str, kind: Kind, start: Position) -> Generator[tuple[Position, list[str] | str, int], None, None]:
    """Rows, where they start and how many lines they take; what is wrong with it for one that is none.

    The csv module takes just the lines that a row needs, which tells where it ends.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    here = start

    with open_lines(uri, start.offset) as file:

        def lines() -> Iterator[str]:
            nonlocal here
            for line in file:
                first, here = here == START, Position(here.offset + len(line), here.number + 1)
                # What is not UTF-8 turns into halves of surrogate pairs, which the checks of a passage refuse.
                yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode("utf-8", "surrogateescape")

        delimiter = "," if kind == "csv" else "\t"
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if kind == "csv" else csv.QUOTE_NONE
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
                yield position, f"not a row of {kind.upper()} ({what})", here.number - position.number
                continue
            if row:
                yield position, row, here.number - position.number
