"""How much of what an index keeps of documents goes into one answer of a shard.

A text of any length may be indexed. One that is larger than a message between shard and gateway would fail every
search that finds it, and many large ones would fill the gateway's memory.
"""

from __future__ import annotations

from typing import Any

from raycol.client.schema import Omitted

MAX_VALUE_BYTES = 4 << 20
MAX_ANSWER_BYTES = 128 << 20


class Allowance:
    """What is left for the values of one answer."""

    def __init__(self, n_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._left = n_bytes

    def within(self, row: dict[str, Any]) -> dict[str, Any]:
        """A document's metadata; `Omitted` stands for each value that is too large, or that the rest has no room for.

        Smaller values come first, so that a large text does not take the place of the others.
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


def within_message(method: str, answer: Any) -> Any:
    """An answer of `IndexShard.<method>` with no more of documents' metadata than there is room for."""
    allowance = Allowance()

    def described(documents: dict[int, tuple[str, dict[str, Any]]]) -> dict[int, tuple[str, dict[str, Any]]]:
        return {number: (id_, allowance.within(row)) for number, (id_, row) in documents.items()}

    match method:
        case "candidates":
            return [
                part._replace(scores=part.scores._replace(documents=described(part.scores.documents)))
                for part in answer
            ]
        case "score":
            return [found._replace(documents=described(found.documents)) for found in answer]
        case "describe":
            return described(answer)
        case "documents":
            return {id_: allowance.within(row) for id_, row in answer.items()}
    return answer
