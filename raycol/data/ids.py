"""Files with one id per line."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from raycol.data.corpus import read_id
from raycol.data.files import MAX_RECORD_BYTES, TOO_LARGE, lines_of, open_lines
from raycol.errors import InputError


def read_id_lines(path: str | Path) -> Iterator[str]:
    """Yield the id on each line, spaces included. Empty lines are skipped.

    Raises:
        InputError: the file cannot be read or is not a plain file, or a line is not a valid id.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a device may never end
        raise InputError(f"{path}: not a plain file; expected a file of ids, one a line")
    with open_lines(str(path)) as file:
        for number, (line, _) in enumerate(lines_of(file), start=1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            text = text.removesuffix(b"\n").removesuffix(b"\r")
            try:
                if len(line) > MAX_RECORD_BYTES:
                    raise ValueError(TOO_LARGE)
                if text:
                    yield read_id(text.decode("utf-8", "surrogateescape"), "the id")
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
