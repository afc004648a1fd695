"""CSV and TSV with positions.

CSV is as RFC 4180 has it, with quotes. TSV has none, as MS MARCO's files, unless its first rows say otherwise: DPR's
passages and what pandas writes have them. Which names the columns of a file without a header have is up to who reads.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice, zip_longest
from typing import Any, Literal

from raycol.core.progress import print_once
from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, lines_of, open_lines
from raycol.data.position import START, Position
from raycol.errors import InputError

Kind = Literal["csv", "tsv"]

# Given the first rows of a file, the names of its columns where the first row is none of names; else None. Raises
# `ValueError` where neither can be.
Guess = Callable[[list[list[str]]], list[str] | None]

# Rows, and bytes, that a guess is made from.
_LOOK, _LOOK_BYTES = 100, 1 << 20
# TSV files without a header, by their number of fields, as ColBERT's collection.tsv.
_WITHOUT_HEADER = {2: ["id", "text"], 3: ["id", "text", "title"]}
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
# The longest text that may be a column's name.
_LONGEST_NAME = 64


def is_number(field: str) -> bool:
    """Whether a field is a number, as no column's name is."""
    return _NUMBER.fullmatch(field) is not None


def is_header(fields: Sequence[str], knows: Callable[[str], bool]) -> bool:
    """Whether a first row names columns: two names are known, or one is and no other field reads as data."""
    known = [field for field in fields if knows(field)]
    others = [field for field in fields if not knows(field)]
    return len(known) > 1 or (
        len(known) == 1 and not any(is_number(field) or len(field) > _LONGEST_NAME for field in others)
    )


def usual_names(kind: Kind, knows: Callable[[str], bool]) -> Guess:
    """How texts by id lie in a file without a header: an id and a text, or an id, a text and a title. Of TSV only."""

    def guess(rows: list[list[str]]) -> list[str] | None:
        first = rows[0]
        if is_header(first, knows):
            return None
        if kind == "tsv" and len(first) in _WITHOUT_HEADER:
            return _WITHOUT_HEADER[len(first)]
        without = ", and without a header there are an id, a text and perhaps a title" if kind == "tsv" else ""
        raise ValueError(
            f"no column here is known by its name ({', '.join(first)[:80]}); "
            f"name those of id and text with --id-column and --text-column{without}"
        )

    return guess


def read_delimited(
    uri: str,
    kind: Kind,
    guess: Guess,
    choose: Callable[[list[str]], list[str]],
    start: Position = START,
) -> Iterator[tuple[Position, dict[str, Any] | str]]:
    """Yield each record from `start` with its position; what is wrong with it, as text, where it is unusable.

    The first line names the columns unless `guess` does. What is guessed is printed in one line. `choose` picks from
    the names of columns. An empty file has no records.

    Raises:
        InputError: the file is missing or cannot be read, or its columns cannot be told.
    """
    quoted = is_quoted(uri, kind)
    if quoted and kind == "tsv":
        print_once(f"{uri}: its fields are in quotes, which are taken off as in CSV")
    names, first = _header(uri, kind, guess, quoted=quoted)
    wanted = set(choose(names)) if names else set()
    if first is None:
        return
    start = first if start.offset < first.offset else start
    for position, fields, n_lines in _rows(uri, kind, start, quoted=quoted):
        if isinstance(fields, str):
            yield position, fields + _taking(n_lines)
        elif len(fields) != len(names):
            yield position, f"{len(fields)} fields where the file has {len(names)} columns" + _taking(n_lines)
        else:
            yield position, {name: field for name, field in zip(names, fields, strict=True) if name in wanted}


def is_quoted(uri: str, kind: Kind) -> bool:
    """Whether fields may be in quotes: those of CSV, and of TSV whose first rows are so written.

    That is where every quote is as a writer of quoted fields leaves it, and the quotes are not the texts' own: they
    hold doubled ones, or are around most fields of a column, or lines without them would be of several lengths.
    """
    if kind == "csv":
        return True
    with open_lines(uri) as file:
        head = file.read(_LOOK_BYTES)
    if b'"' not in head:
        return False
    whole = len(head) < _LOOK_BYTES
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    rows = list(islice(_fields_in(text), _LOOK))
    if len(rows) < _LOOK and rows and not whole:
        rows.pop()  # it may go on
    if any(row is None for row in rows):
        return False
    fields = [row for row in rows if row and row != [""]]
    quoted = [[field[:1] == '"' for field in row] for row in fields]
    if any(2 * sum(column) > len(column) for column in zip_longest(*(quoted[1:] or quoted), fillvalue=False)):
        return True
    inner = [field[1:-1] for row in fields for field in row if field[:1] == '"']
    lines = "\n".join("\t".join(row) for row in fields).split("\n")
    uneven = len({line.count("\t") for line in lines}) > 1
    return any('"' in field or (uneven and re.search(r"[\t\n]", field)) for field in inner)


_FIELD = re.compile(r'("(?:[^"]|"")*"|[^"\t\n][^\t\n"]*|)(\t|\n|$)')


def _fields_in(text: str) -> Iterator[list[str] | None]:
    """Rows of quoted TSV, quotes kept; None, and no more, where it is not quoted TSV."""
    at = 0
    row: list[str] = []
    while at < len(text):
        match = _FIELD.match(text, at)
        if not match:
            yield None
            return
        row.append(match[1])
        at = match.end()
        if match[2] != "\t":
            yield row
            row = []


def _taking(n_lines: int) -> str:
    """A quote that is not closed, or closed by the next one, makes one record of many: that is to be said."""
    return f"; it takes in {n_lines} lines, since a quote opens in it" if n_lines > 1 else ""


def _header(uri: str, kind: Kind, guess: Guess, *, quoted: bool) -> tuple[list[str], Position | None]:
    """The columns' names, none in an empty file, and where the records begin if there are any."""
    with closing(_rows(uri, kind, START, quoted=quoted)) as rows:
        head = list(islice(rows, _LOOK))
    if not head:
        return [], None
    _, first, n_lines = head[0]
    if isinstance(first, str):
        raise InputError(f"{uri}, line 1: {first}{_taking(n_lines)}")
    try:
        names = guess([fields for _, fields, _ in head if isinstance(fields, list)])
    except ValueError as error:
        raise InputError(f"{uri}, line 1: {error}") from None
    if names:
        columns = ", ".join(f"column {number} is {name!r}" for number, name in enumerate(names, start=1))
        print_once(f"{uri}: no header, the first line is data; {columns}")
        return names, START
    if len(set(first)) < len(first):
        raise InputError(f"{uri}, line 1: a column's name comes twice ({', '.join(first)[:80]})")
    return first, head[1][0] if len(head) > 1 else None


class _TooLargeError(Exception):
    """A record takes more bytes than one may."""


def _rows(
    uri: str, kind: Kind, start: Position, *, quoted: bool
) -> Generator[tuple[Position, list[str] | str, int], None, None]:
    """Rows, where they start and how many lines they take; what is wrong with it for one that is none.

    The csv module takes just the lines that a row needs, which tells where it ends.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    here = position = start

    with open_lines(uri, start.offset) as file:
        content = lines_of(file)

        def lines() -> Iterator[str]:
            nonlocal here
            for line, n_bytes in content:
                first, here = here == START, Position(here.offset + n_bytes, here.number + 1)
                if here.offset - position.offset > MAX_RECORD_BYTES:
                    raise _TooLargeError
                # What is not UTF-8 turns into halves of surrogate pairs, which the checks of a passage refuse.
                yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode("utf-8", "surrogateescape")

        def reader() -> Iterator[list[str]]:
            quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
            return csv.reader(lines(), delimiter="," if kind == "csv" else "\t", quoting=quoting, strict=True)

        rows = reader()
        while True:
            position = here
            try:
                row = next(rows)
            except StopIteration:
                return
            except _TooLargeError:
                yield position, TOO_LARGE, here.number - position.number
                rows = reader()
                continue
            except csv.Error as error:
                # What the module says of carriage returns is advice for programmers.
                what = "a carriage return that ends no line" if "new-line" in str(error) else error
                yield position, f"not a row of {kind.upper()} ({what})", here.number - position.number
                continue
            if row:
                yield position, row, here.number - position.number
