"""Names of the fields of a record: id, title, text, embeddings and metadata; given, or inferred from common names."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycol.errors import InputError

COMMON_NAMES = {
    # The id of a passage before that of its document: MS MARCO v2 has both.
    "id": ("_id", "id", "pid", "passage_id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id", "ids"),
    "title": ("title", "doc_title"),
    "text": ("text", "contents", "content", "body", "passage", "document", "segment"),
    "embeddings": ("embeddings", "embedding"),
}


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a record. None means the first of the `COMMON_NAMES` in the record, in any case.

    Args:
        id: the document's id.
        title: its title.
        text: its text.
        embeddings: its embeddings [n_tokens, dim], in an encoded corpus.
        metadata: fields to store as metadata, each with the type to convert to, or "" to keep the value as it is.
        make_ids: generate ids from this prefix and the running number of the record, from 0, instead of reading them.
        encoded: the corpus has embeddings instead of texts to encode.
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
        """The name of the field with this role (id, title, text or embeddings); None if it is not in `names`."""
        explicit = getattr(self, role)
        if explicit:
            return explicit if explicit in names else None
        common = COMMON_NAMES[role]
        exact = next((name for name in common if name in names), None)
        if exact:
            return exact
        lowered = {name.lower(): name for name in names}
        return next((lowered[name] for name in common if name in lowered), None)

    def is_known(self, name: str) -> bool:
        """Whether a first row with this value is a header."""
        common = any(name.lower() in names for names in COMMON_NAMES.values())
        return common or name in (self.id, self.title, self.text) or name in self.metadata

    def select_columns(self, file: object, names: Sequence[str], *, tokens: bool) -> list[str]:
        """Columns of a table to read; embeddings only if `tokens`.

        Raises:
            InputError: a configured column is missing, or no column is the id or the text.
        """
        for role in COMMON_NAMES:
            if (explicit := getattr(self, role)) and explicit not in names:
                raise InputError(f"{file}: no column {explicit!r} for the {role}; it has {', '.join(names)}")
        for name in self.metadata:
            if name not in names:
                raise InputError(f"{file}: no column {name!r} for metadata; it has {', '.join(names)}")
        required = [*([] if self.make_ids is not None else ["id"]), "embeddings" if self.encoded else "text"]
        for role in required:
            if self.find(role, names) is None:
                remedy = f"name it with `{role}_column=`" + ", or generate ids with `make_ids=`" * (role == "id")
                raise InputError(f"{file}: no column for the {role} among {', '.join(names)}; {remedy}")
        roles = ["id", "title", "text"] + ["embeddings"] * tokens
        columns = [self.find(role, names) for role in roles if role != "id" or self.make_ids is None]
        return list(dict.fromkeys([*(name for name in columns if name), *self.metadata]))


def convert(value: Any, kind: str) -> Any:
    """A metadata value converted to a type. Raises `ValueError`, `TypeError` or `OverflowError`."""
    if value is None or (value == "" and kind != "string"):
        return None
    return _CONVERSIONS[kind](value)


def _to_bool(value: Any) -> bool:
    truths = {"true": True, "1": True, "false": False, "0": False}
    truth = truths.get(str(value).lower())
    if truth is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return truth


def _to_int(value: Any) -> int:
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{value!r} is not an integer")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{value!r} takes more than 64 bits")
    return number


def _to_date(value: Any) -> datetime.date:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    parsed = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    return parsed.date()


def _to_timestamp(value: Any) -> datetime.datetime:
    parsed = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    # Stored in UTC. The conversion raises OverflowError if it leaves the years 1 to 9999.
    return parsed.astimezone(datetime.UTC) if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "int64": _to_int,
    "double": float,
    "bool": _to_bool,
    "date": _to_date,
    "timestamp": _to_timestamp,
}
