"""Read CSV and TSV, with the position of each record.

CSV follows RFC 4180, with quoted fields. TSV is unquoted, as in MS MARCO, unless its first rows are quoted, as in the
passages of DPR and in files written by pandas. The caller names the columns of files without a header.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Literal

from raycol.core.progress import print_once
from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, lines_of, open_lines
from raycol.data.readers.reader import START, CorpusFile, InferNames, LinesReader, Position, Rows, Select
from raycol.errors import InputError

Kind = Literal["csv", "tsv"]

# Rows and bytes at the start of a file that are inspected for a header and for quotes.
_SAMPLE_ROWS, _SAMPLE_BYTES = 100, 1 << 20
# Columns of TSV files without a header, by their number, as in ColBERT's collection.tsv.
_WITHOUT_HEADER = {2: ["id", "text"], 3: ["id", "text", "title"]}
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
# Maximum length of a column name, in characters.
_LONGEST_NAME = 64


def is_number(field: str) -> bool:
    """Whether a field is a number, and so not a column name."""
    return _NUMBER.fullmatch(field) is not None


def is_header(fields: Sequence[str], is_known: Callable[[str], bool]) -> bool:
    """Whether a first row is a header: two names are known, or one is known and no other field looks like data."""
    known = [field for field in fields if is_known(field)]
    others = [field for field in fields if not is_known(field)]
    return len(known) > 1 or (
        len(known) == 1 and not any(is_number(field) or len(field) > _LONGEST_NAME for field in others)
    )


def default_names(format_: str, is_known: Callable[[str], bool]) -> InferNames:
    """`InferNames` for texts by id. TSV without a header has an id and a text, or an id, a text and a title."""

    def infer_names(rows: list[list[str]]) -> list[str] | None:
        first = rows[0]
        if is_header(first, is_known):
            return None
        if format_ == "tsv" and len(first) in _WITHOUT_HEADER:
            return _WITHOUT_HEADER[len(first)]
        headerless = "; TSV without a header has an id, a text and optionally a title" if format_ == "tsv" else ""
        raise ValueError(
            f"no known column name in {', '.join(first)[:80]}; "
            f"name the id and text with `id_column=` and `text_column=`{headerless}"
        )

    return infer_names


@dataclass(frozen=True)
class DelimitedReader(LinesReader):
    """Reader of CSV or TSV. Its records are dicts of strings.

    The first line names the columns unless `infer_names` does; inferred names are printed.
    """

    kind: Kind

    has_columns = True

    @property
    def suffixes(self) -> tuple[str, ...]:
        """See `Reader`."""
        return (f".{self.kind}",)

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`. Raises `InputError` also if the columns cannot be determined."""
        uri, kind = file.uri, self.kind
        quoted = is_quoted(uri, kind)
        if quoted and kind == "tsv":
            print_once(f"{uri}: fields are quoted; the quotes are removed as in CSV")
        names, first = _header(uri, kind, infer_names, quoted=quoted)
        selected = set(select(names)) if names else set()
        if first is None:
            return
        start = first if start.offset < first.offset else start
        for position, fields, n_lines in _rows(uri, kind, start, quoted=quoted):
            if isinstance(fields, str):
                yield position, ValueError(fields + _spanning(n_lines))
            elif len(fields) != len(names):
                reason = f"{len(fields)} fields; expected {len(names)}, one per column"
                yield position, ValueError(reason + _spanning(n_lines))
            else:
                yield position, {name: field for name, field in zip(names, fields, strict=True) if name in selected}

    def spans_lines(self, file: CorpusFile) -> bool:
        """See `LinesReader`: quoted fields may."""
        return is_quoted(file.uri, self.kind)


def is_quoted(uri: str, kind: Kind) -> bool:
    """Whether fields may be quoted: always in CSV, and in TSV if its first rows are quoted.

    They are quoted if they parse as quoted fields and the quotes are not part of the texts: some are doubled, or most
    fields of a column are quoted, or the lines would otherwise differ in their number of fields.
    """
    if kind == "csv":
        return True
    with open_lines(uri) as file:
        head = file.read(_SAMPLE_BYTES)
    if b'"' not in head:
        return False
    whole = len(head) < _SAMPLE_BYTES
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    rows = list(islice(_split_quoted(text), _SAMPLE_ROWS))
    if len(rows) < _SAMPLE_ROWS and rows and not whole:
        rows.pop()  # it may be cut
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


def _split_quoted(text: str) -> Iterator[list[str] | None]:
    """Yield the rows of quoted TSV, with their quotes; stop with None at text that is not quoted TSV."""
    offset = 0
    row: list[str] = []
    while offset < len(text):
        match = _FIELD.match(text, offset)
        if not match:
            yield None
            return
        row.append(match[1])
        offset = match.end()
        if match[2] != "\t":
            yield row
            row = []


def _spanning(n_lines: int) -> str:
    """Hint for a record of several lines: an unclosed quote swallows the lines up to the next quote."""
    return f"; a quote in it opens a field that spans {n_lines} lines" if n_lines > 1 else ""


def _header(uri: str, kind: Kind, infer_names: InferNames, *, quoted: bool) -> tuple[list[str], Position | None]:
    """Column names (empty for an empty file) and the position of the first record (None if there is none)."""
    with closing(_rows(uri, kind, START, quoted=quoted)) as rows:
        head = list(islice(rows, _SAMPLE_ROWS))
    if not head:
        return [], None
    _, first, n_lines = head[0]
    if isinstance(first, str):
        raise InputError(f"{uri}, line 1: {first}{_spanning(n_lines)}")
    try:
        names = infer_names([fields for _, fields, _ in head if isinstance(fields, list)])
    except ValueError as error:
        raise InputError(f"{uri}, line 1: {error}") from None
    if names:
        columns = ", ".join(f"column {number} is {name!r}" for number, name in enumerate(names, start=1))
        print_once(f"{uri}: no header, the first line is data; {columns}")
        return names, START
    if len(set(first)) < len(first):
        raise InputError(f"{uri}, line 1: duplicate column name ({', '.join(first)[:80]})")
    return first, head[1][0] if len(head) > 1 else None


class _TooLargeError(Exception):
    """A record exceeds `MAX_RECORD_BYTES`."""


def _rows(
    uri: str, kind: Kind, start: Position, *, quoted: bool
) -> Generator[tuple[Position, list[str] | str, int], None, None]:
    """Yield the position of each row, its fields (or the reason why it cannot be parsed), and its number of lines.

    The csv module pulls exactly the lines of a row, which gives the position of the next one.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    end = position = start

    with open_lines(uri, start.offset) as file:
        content = lines_of(file)

        def lines() -> Iterator[str]:
            nonlocal end
            for line, n_bytes in content:
                first, end = end == START, Position(end.offset + n_bytes, end.number + 1)
                if end.offset - position.offset > MAX_RECORD_BYTES:
                    raise _TooLargeError
                # Invalid UTF-8 becomes lone surrogates, which the validation of a passage refuses.
                yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode("utf-8", "surrogateescape")

        def reader() -> Iterator[list[str]]:
            quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
            return csv.reader(lines(), delimiter="," if kind == "csv" else "\t", quoting=quoting, strict=True)

        rows = reader()
        while True:
            position = end
            try:
                row = next(rows)
            except StopIteration:
                return
            except _TooLargeError:
                yield position, TOO_LARGE, end.number - position.number
                rows = reader()
                continue
            except csv.Error as error:
                # The csv module's message about carriage returns is advice on its API.
                reason = "a carriage return inside a line" if "new-line" in str(error) else error
                yield position, f"not a row of {kind.upper()} ({reason})", end.number - position.number
                continue
            if row:
                yield position, row, end.number - position.number
