"""Read and write JSON Lines. Records are read with their positions, from which reading can resume.

A file with a single JSON array of objects or arrays is read like JSON Lines, one record per element.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, lines_of, open_lines
from raycol.data.readers.reader import (
    START,
    CorpusFile,
    InferNames,
    LinesReader,
    Position,
    Rows,
    Select,
    as_object,
)
from raycol.errors import InputError

# Limit on nesting: functions that traverse a value are recursive, such as `repr`.
_MAX_DEPTH = 64

# Start of an array of objects or arrays. Lines of arrays, such as ColBERT's triples, start with a number or a string.
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[\[{]")
_BETWEEN = re.compile(rb"[\s,]*")
# A string, a bracket, or the opening quote of a string that ends beyond the buffer.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}"]', re.DOTALL)
_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^],]+', re.DOTALL)
_HEAD = 1 << 12


class JsonLinesReader(LinesReader):
    """Reader of JSON Lines. Its records are JSON values."""

    suffixes = (".jsonl", ".ndjson", ".json")
    has_columns = False

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`."""
        for position, line in read_lines(file.uri, start):
            try:
                record = parse_json(line)
            except ValueError as error:
                record = error
            yield position, record

    def spans_lines(self, file: CorpusFile) -> bool:
        """See `LinesReader`: the elements of an array may."""
        return is_array(file.uri)


def read_lines(path: str | Path, start: Position = START) -> Iterator[tuple[Position, bytes]]:
    """Yield each non-blank line of a file, or each element of its array, from `start`, with its position.

    Compressed files are decompressed; offsets refer to the decompressed content. A line that is too large is cut, and
    `parse_json` refuses it. Elements of an array are numbered from 1.

    Raises:
        InputError: the file is missing or cannot be read, or is an incomplete array.
    """
    in_array = is_array(path) if start.offset else None
    with open_lines(str(path), start.offset) as file:
        if in_array is None:
            in_array = bool(_ARRAY.match(file.peek(_HEAD)))  # type: ignore[attr-defined]
        if in_array:
            yield from _elements(file, path, start)
            return
        position = start
        for line, n_bytes in lines_of(file):
            if not line.isspace():
                yield position, line
            position = Position(position.offset + n_bytes, position.number + 1)


def is_array(path: str | Path) -> bool:
    """Whether a file is a single JSON array. Raises `InputError` if it cannot be read."""
    with open_lines(str(path)) as file:
        return bool(_ARRAY.match(file.read(_HEAD)))


def _elements(file: BinaryIO, path: str | Path, start: Position) -> Iterator[tuple[Position, bytes]]:
    """Yield the elements of an array, from its start or from the position of an element."""
    # The buffer starts at byte `offset` of the content; `index` is the position in the buffer.
    buffer, offset, number = b"", start.offset, start.number
    index = 0

    def read_more() -> bool:
        """Drop the bytes before `index`, and read at least as many as remain; False at the end of the file."""
        nonlocal buffer, offset, index
        if len(buffer) - index > MAX_RECORD_BYTES:
            raise InputError(f"{path}, record {number}: {TOO_LARGE}")
        block = file.read(max(1 << 20, len(buffer) - index))
        buffer, offset, index = buffer[index:] + block, offset + index, 0
        return bool(block)

    if not start.offset:
        read_more()
        index = buffer.index(b"[") + 1
    while True:
        index = _BETWEEN.match(buffer, index).end()  # type: ignore[union-attr]
        if index == len(buffer):
            if not read_more():
                raise InputError(f"{path}, record {number}: the array is incomplete; expected ']' after its elements")
            continue
        if buffer[index : index + 1] == b"]":
            index += 1
            while read_more() or index < len(buffer):
                if buffer[index:].strip():
                    raise InputError(f"{path}, record {number}: content after the array; expected the file to end")
                index = len(buffer)
            return
        while (end := _end_of_value(buffer, index)) is None:
            if not read_more():
                raise InputError(f"{path}, record {number}: the array is incomplete; the file ends inside an element")
        yield Position(offset + index, number), buffer[index:end]
        index, number = end, number + 1


def _end_of_value(buffer: bytes, start: int) -> int | None:
    """End of the JSON value that starts at `start`; None if it may extend beyond the buffer."""
    if buffer[start : start + 1] not in (b"{", b"["):
        match = _SCALAR.match(buffer, start)
        return match.end() if match and match.end() < len(buffer) else None
    depth = 0
    for match in _TOKEN.finditer(buffer, start):
        token = match[0]
        if token == b'"':
            return None
        depth += (token in b"{[") - (token in b"}]")
        if not depth:
            return match.end()
    return None


def parse_json(line: bytes) -> Any:
    """Parse a line of JSON. Raises `ValueError` if it is invalid, too large or too deeply nested."""
    if len(line) > MAX_RECORD_BYTES:
        raise ValueError(TOO_LARGE)
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        hint = "; does a value span several lines? expected one value per line, or an array of objects"
        incomplete = error.pos >= len(line.decode().rstrip()) and line.lstrip()[:1] in (b"{", b"[")
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}){hint * incomplete}") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deeply)") from None
    except ValueError:
        raise ValueError("not usable JSON (a number with too many digits)") from None
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _is_deep(record):
        raise ValueError("not usable JSON (nested too deeply)")
    return record


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner = [iter(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse a line as a JSON object. Raises `ValueError` if it is not one."""
    return as_object(parse_json(line))


def write_objects(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records as JSON Lines atomically; return their number."""
    unfinished = path.with_name(path.name + ".tmp")
    count = 0
    with unfinished.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    os.replace(unfinished, path)
    return count
