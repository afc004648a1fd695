"""Which fields of a record are its id, title, text, embeddings and metadata: chosen, or guessed by the usual names."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycol.errors import InputError

USUAL = {
    # A passage's own id before its document's: MS MARCO v2 has both.
    "id": ("_id", "id", "pid", "passage_id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id", "ids"),
    "title": ("title", "doc_title"),
    "text": ("text", "contents", "content", "body", "passage", "document", "segment"),
    "embeddings": ("embeddings", "embedding"),
}


@dataclass(frozen=True)
class Fields:
    """Names of fields; where one is None, the first of the usual names that there is, in capitals or not.

    Args:
        id: the document's id.
        title: its title.
        text: its text.
        embeddings: its embeddings, one row a token, where documents come encoded.
        metadata: what else is kept, with the type that a value is turned into, or "" where it is taken as it is.
        make_ids: make ids of this prefix and the running number of the record, from 0, in place of reading any.
        encoded: read embeddings, not text to encode.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None
    embeddings: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    make_ids: str | None = None
    encoded: bool = False

    def __post_init__(self) -> None:
        for name, kind in self.metadata.items():
            if kind and kind not in _CONVERSIONS:
                raise InputError(f"metadata {name!r} of type {kind!r}; expected one of {', '.join(_CONVERSIONS)}")

    def find(self, role: str, names: Mapping[str, Any] | Sequence[str]) -> str | None:
        """The name of the field that is the id, title, text or embeddings, if it is among `names`."""
        chosen = getattr(self, role)
        if chosen:
            return chosen if chosen in names else None
        usual = USUAL[role]
        found = next((name for name in usual if name in names), None)
        if found:
            return found
        lowered = {name.lower(): name for name in names}
        return next((lowered[name] for name in usual if name in lowered), None)

    def knows(self, name: str) -> bool:
        """Whether a name tells a header from a row."""
        usual = any(name.lower() in names for names in USUAL.values())
        return usual or name in (self.id, self.title, self.text) or name in self.metadata

    def choose(self, file: object, names: Sequence[str], *, tokens: bool) -> list[str]:
        """Which columns of a table to read; of embeddings only if `tokens`.

        Raises:
            InputError: a column that was asked for is not there, or none is the id or the text.
        """
        for role in USUAL:
            if (chosen := getattr(self, role)) and chosen not in names:
                raise InputError(f"{file}: no column {chosen!r} for the {role}; it has {', '.join(names)}")
        for name in self.metadata:
            if name not in names:
                raise InputError(f"{file}: no column {name!r} for metadata; it has {', '.join(names)}")
        needed = [*([] if self.make_ids is not None else ["id"]), "embeddings" if self.encoded else "text"]
        for role in needed:
            if self.find(role, names) is None:
                remedy = f"name it with --{role}-column" + ", or choose --make-ids" * (role == "id")
                raise InputError(f"{file}: no column is known to be the {role}, of {', '.join(names)}; {remedy}")
        roles = ["id", "title", "text"] + ["embeddings"] * tokens
        found = [self.find(role, names) for role in roles if role != "id" or self.make_ids is None]
        return list(dict.fromkeys([*(name for name in found if name), *self.metadata]))


def convert(value: Any, kind: str) -> Any:
    """A value as the type that was asked for. Raises `ValueError` where it is no such thing."""
    if value is None or (value == "" and kind != "string"):
        return None
    return _CONVERSIONS[kind](value)


def _to_bool(value: Any) -> bool:
    truths = {"true": True, "1": True, "false": False, "0": False}
    found = truths.get(str(value).lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


def _to_int(value: Any) -> int:
    found = int(value)
    if not isinstance(value, str) and found != value:
        raise ValueError(f"{value!r} is no whole number")
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{value!r} takes more than 64 bits")
    return found


def _to_date(value: Any) -> datetime.date:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    found = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    return found.date()


def _to_timestamp(value: Any) -> datetime.datetime:
    found = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    # In UTC, where it is stored: there it may lie beyond the calendar, which is an OverflowError.
    return found.astimezone(datetime.UTC) if found.tzinfo else found.replace(tzinfo=datetime.UTC)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "int64": _to_int,
    "double": float,
    "bool": _to_bool,
    "date": _to_date,
    "timestamp": _to_timestamp,
}
