"""JSON Lines with positions: which line, at which byte, so that any part of a file can be read again.

A file that is one JSON array, of objects or of arrays, is read as if each of its elements were a line.
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
from raycol.data.position import START, Position
from raycol.errors import InputError

# Deeper values are refused: what walks through one is recursive, such as `repr`.
_MOST_NESTING = 64

# An array of objects or arrays. Lines of arrays, as ColBERT's triples are, begin with a number or a string in one.
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[\[{]")
_BETWEEN = re.compile(rb"[\s,]*")
# A string, a bracket, or the quote of a string that ends further on.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}"]', re.DOTALL)
_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^],]+', re.DOTALL)
_HEAD = 1 << 12


def read_lines(path: str | Path, start: Position = START) -> Iterator[tuple[Position, bytes]]:
    """Yield each line of a file, or element of its array, from `start`, with its position. Blank lines are left out.

    A compressed file is decompressed; offsets are then those of its content. A line that is too large is cut, which
    `parse_json` refuses. Elements of an array are numbered from 1.

    Raises:
        InputError: the file is missing or cannot be read, or is an array that does not end.
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
    """Whether a file is one JSON array. Raises `InputError` where it cannot be read."""
    with open_lines(str(path)) as file:
        return bool(_ARRAY.match(file.read(_HEAD)))


def _elements(file: BinaryIO, path: str | Path, start: Position) -> Iterator[tuple[Position, bytes]]:
    """The elements of an array, from its beginning or from where one of them starts."""
    buffer, place, number = b"", start.offset, start.number
    at = 0

    def more() -> bool:
        """Drop what was read, and read as much again."""
        nonlocal buffer, place, at
        if len(buffer) - at > MAX_RECORD_BYTES:
            raise InputError(f"{path}, record {number}: {TOO_LARGE}")
        got = file.read(max(1 << 20, len(buffer) - at))
        buffer, place, at = buffer[at:] + got, place + at, 0
        return bool(got)

    if not start.offset:
        more()
        at = buffer.index(b"[") + 1
    while True:
        at = _BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]
        if at == len(buffer):
            if not more():
                raise InputError(f"{path}, record {number}: the array ends early; expected a ']' behind its elements")
            continue
        if buffer[at : at + 1] == b"]":
            at += 1
            while more() or at < len(buffer):
                if buffer[at:].strip():
                    raise InputError(f"{path}, record {number}: more behind the end of the array; expected nothing")
                at = len(buffer)
            return
        while (end := _end_of_value(buffer, at)) is None:
            if not more():
                raise InputError(f"{path}, record {number}: the array ends early, in the midst of an element")
        yield Position(place + at, number), buffer[at:end]
        at, number = end, number + 1


def _end_of_value(buffer: bytes, at: int) -> int | None:
    """Where the JSON value that starts at `at` ends; None where it goes on behind the buffer."""
    if buffer[at : at + 1] not in (b"{", b"["):
        match = _SCALAR.match(buffer, at)
        return match.end() if match and match.end() < len(buffer) else None
    depth = 0
    for token in _TOKEN.finditer(buffer, at):
        found = token[0]
        if found == b'"':
            return None
        depth += (found in b"{[") - (found in b"}]")
        if not depth:
            return token.end()
    return None


def parse_json(line: bytes) -> Any:
    """Parse one line of JSON. Raises `ValueError` saying what is wrong with it."""
    if len(line) > MAX_RECORD_BYTES:
        raise ValueError(TOO_LARGE)
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        several = "; is it one value over several lines? expected a value a line, or an array of objects"
        goes_on = error.pos >= len(line.decode().rstrip()) and line.lstrip()[:1] in (b"{", b"[")
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}){several * goes_on}") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deeply)") from None
    except ValueError:
        raise ValueError("not usable JSON (a number of too many digits)") from None
    if line.count(b"[") + line.count(b"{") > _MOST_NESTING and _is_deep(record):
        raise ValueError("not usable JSON (nested too deeply)")
    return record


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_NESTING):
        inner = [iter(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse one line as a JSON object. Raises `ValueError` saying what was found instead."""
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but a {type(record).__name__}")
    return record


def read_objects(path: str | Path) -> Iterator[tuple[Position, dict[str, Any]]]:
    """Yield each line of a file as a JSON object. Raises `InputError` naming the file and the line."""
    for position, line in read_lines(path):
        try:
            record = parse_object(line)
        except ValueError as error:
            raise InputError(f"{path}, line {position.number}: {error}") from None
        yield position, record


def write_objects(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records as JSON Lines, whole or not at all; return how many."""
    unfinished = path.with_name(path.name + ".tmp")
    count = 0
    with unfinished.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    os.replace(unfinished, path)
    return count
