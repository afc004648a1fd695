"""Limits on the size of document metadata in one reply of a shard.

Indexed texts may have any length. A text larger than a message between shard and gateway would fail every search
that returns it, and many large texts would fill the gateway's memory.
"""

from __future__ import annotations

from typing import Any

from raycol.client.schema import Omitted

MAX_VALUE_BYTES = 4 << 20
MAX_ANSWER_BYTES = 128 << 20


class MetadataBudget:
    """The bytes left for metadata values in one reply."""

    def __init__(self, n_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._left = n_bytes

    def fit(self, row: dict[str, Any]) -> dict[str, Any]:
        """A document's metadata, with `Omitted` in place of values over the per-value limit or the remaining budget.

        Smaller values are charged first, so that a large text does not displace them.
        """
        sizes = {name: _n_bytes(value) for name, value in row.items()}
        omitted = {}
        for name in sorted(sizes, key=lambda name: sizes[name]):
            if sizes[name] > min(MAX_VALUE_BYTES, self._left):
                omitted[name] = Omitted(sizes[name])
            else:
                self._left -= sizes[name]
        return {**row, **omitted} if omitted else row


def _n_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass")) if len(value) > 1000 else len(value)
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(_n_bytes, value))
    if isinstance(value, dict):
        return sum(_n_bytes(name) + _n_bytes(inner) for name, inner in value.items())
    return 8


def limit_metadata(method: str, result: Any) -> Any:
    """The result of `IndexShard.<method>`, its metadata limited to one `MetadataBudget`."""
    budget = MetadataBudget()

    def fit_all(documents: dict[int, tuple[str, dict[str, Any]]]) -> dict[int, tuple[str, dict[str, Any]]]:
        return {ordinal: (id_, budget.fit(row)) for ordinal, (id_, row) in documents.items()}

    match method:
        case "candidates":
            return [
                part._replace(scores=part.scores._replace(documents=fit_all(part.scores.documents))) for part in result
            ]
        case "score":
            return [scores._replace(documents=fit_all(scores.documents)) for scores in result]
        case "describe":
            return fit_all(result)
        case "documents":
            return {id_: budget.fit(row) for id_, row in result.items()}
    return result
