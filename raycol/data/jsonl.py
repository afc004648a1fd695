"""JSON Lines with positions: which line, at which byte, so that any part of a file can be read again."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raycol.data.files import open_lines
from raycol.data.position import START, Position
from raycol.errors import InputError


def read_lines(path: str | Path, start: Position = START) -> Iterator[tuple[Position, bytes]]:
    """Yield each line of a file from `start`, with its position. Blank lines are left out.

    A file whose name ends in .gz or .zst is decompressed; offsets are then those of its content.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with open_lines(str(path), start.offset) as file:
        position = start
        for line in file:
            if not line.isspace():
                yield position, line
            position = Position(position.offset + len(line), position.number + 1)


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse one line as a JSON object. Raises `ValueError` saying what was found instead."""
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deeply)") from None
    except ValueError:
        raise ValueError("not usable JSON (a number of too many digits)") from None
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
