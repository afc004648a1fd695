"""A corpus: passages with an id, an optional title and a text, one JSON object a line.

The id is under `_id` or `id`, as in BEIR and elsewhere. Every record is checked on the way in; what is
wrong with one is a `Problem` that says where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raycol.data.jsonl import START, Position, parse_object, read_lines
from raycol.errors import InputError

OnError = Literal["fail", "skip"]

MAX_ID_BYTES = 512


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable text."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """What is encoded: title and text, joined by a space as BEIR's own evaluation does."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that cannot be used: where it stands and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def corpus_file(path: Path) -> Path:
    """The JSON Lines file of a corpus given as that file or as a BEIR folder."""
    if path.is_dir():
        inside = path / "corpus.jsonl"
        if not inside.is_file():
            raise InputError(f"{path}: no corpus.jsonl in this folder; expected a BEIR folder or a .jsonl file")
        return inside
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a corpus (.jsonl) or a BEIR folder")
    return path


def check_id(record: dict[str, Any]) -> str:
    """The record's id. Raises `ValueError` saying what is wrong with it."""
    value = record.get("_id", record.get("id"))
    if value is None:
        raise ValueError("no '_id' (or 'id')")
    if not isinstance(value, str) or not value:
        raise ValueError(f"the id is {value!r}; expected a non-empty string")
    size = len(_encode("id", value))
    if size > MAX_ID_BYTES:
        raise ValueError(f"the id takes {size} bytes; expected at most {MAX_ID_BYTES}")
    return value


def _encode(name: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {name} holds half of a surrogate pair") from None


def parse_passage(line: bytes) -> Passage:
    """Parse one corpus line. Raises `ValueError` saying what is wrong with it."""
    record = parse_object(line)
    id_ = check_id(record)
    title, text = record.get("title") or "", record.get("text") or ""
    for name, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            raise ValueError(f"the {name} of {id_!r} is a {type(value).__name__}; expected a string")
        _encode(f"{name} of {id_!r}", value)
    if not text.strip() and not title.strip():
        raise ValueError(f"document {id_!r} has no text")
    return Passage(id_, title, text)


def scan_corpus(path: Path, start: Position = START) -> Iterator[tuple[Position, Passage | Problem]]:
    """Yield each line of a corpus file, in order, as a passage or as the problem with it.

    Ids are not compared with each other here: see `read_corpus` and `raycol.indexing.plan`.
    """
    for position, line in read_lines(path, start):
        try:
            yield position, parse_passage(line)
        except ValueError as error:
            yield position, Problem(f"{path}, line {position.line}", str(error))


def check_corpus(
    path: Path, on_error: OnError = "fail", problems: list[Problem] | None = None
) -> Iterator[tuple[Position, Passage | None]]:
    """Yield every line's position with its passage, or None where the line is skipped.

    Raises:
        InputError: at the first problem (a bad record or a repeated id) where `on_error` is "fail"; at the
            end where nothing usable was found.
    """
    seen: dict[str, int] = {}
    for position, item in scan_corpus(path):
        if isinstance(item, Passage):
            first = seen.setdefault(item.id, position.line)
            if first == position.line:
                yield position, item
                continue
            item = Problem(f"{path}, line {position.line}", f"the id {item.id!r} stands on line {first} already")
        if on_error == "fail":
            raise InputError(f"{item}; correct it, or leave such records out with --on-error skip")
        if problems is not None:
            problems.append(item)
        yield position, None
    if not seen:
        raise InputError(f"{path}: an empty corpus; expected at least one document")


def read_corpus(path: Path, on_error: OnError = "fail", problems: list[Problem] | None = None) -> Iterator[Passage]:
    """Yield the passages of a corpus file or BEIR folder, ids checked to be distinct.

    Args:
        path: a .jsonl file or a BEIR folder.
        on_error: "fail" raises at the first unusable record, "skip" leaves it out.
        problems: with "skip", receives what was left out.
    """
    for _, passage in check_corpus(corpus_file(path), on_error, problems):
        if passage is not None:
            yield passage
