"""Results of a retriever: hits with texts, and why a document has its score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycol.core.shown import html_table

if TYPE_CHECKING:
    from raycol.index import Hit


_SNIPPET = 60


class Hits(list["Hit"]):
    """The hits of one query, best first; a notebook shows a table."""

    def __init__(self, query: str, hits: Iterable[Hit] = ()) -> None:
        super().__init__(hits)
        self.query = query

    def __repr__(self) -> str:
        lines = [f"{hit.score:8.3f}  {hit.id}  {_snippet(hit.text)}".rstrip() for hit in self]
        return "\n".join([self.query, *(lines or ["  no hits"])])

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(name for hit in self for name in hit.metadata or () if name != "text"))
        rows = [
            (rank, hit.score, hit.id, hit.text, *((hit.metadata or {}).get(name) for name in columns))
            for rank, hit in enumerate(self, start=1)
        ]
        return html_table(("", "score", "id", "text", *columns), rows, self.query)


class Results(list[Hits]):
    """The hits of each query, in the order of the queries; a notebook shows a table of each."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no queries"

    def _repr_html_(self) -> str:
        return "".join(hits._repr_html_() for hits in self)


@dataclass(frozen=True)
class TokenMatch:
    """A query token, the document token that it matches best, and their dot product.

    `document_token` is None if the index does not store the text or its embeddings are pooled. `start` and `end` are
    the document token's characters in the text; both 0 for special tokens.
    """

    query_token: str
    document_token: str | None
    score: float
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Explanation:
    """Why a document has its score: the scores of the matches add up to it. `text` is its title and text."""

    query: str
    id: str
    score: float
    text: str | None
    matches: tuple[TokenMatch, ...]

    def __repr__(self) -> str:
        lines = [f"{m.score:8.3f}  {m.query_token} -> {m.document_token or '?'}" for m in self.matches]
        return "\n".join([f"{self.id}: {self.score:.3f} for {self.query!r}", *lines])

    def _repr_html_(self) -> str:
        rows = [(match.query_token, match.document_token, match.score) for match in self.matches]
        return html_table(("query token", "document token", "score"), rows, f"{self.id}: {self.score:.3f}")


def explanation(
    query: str,
    id_: str,
    text: str | None,
    query_tokens: Sequence[str],
    document: Sequence[tuple[str, int, int]] | None,
    matches: Sequence[Any],
) -> Explanation:
    """Return the explanation of a score, with token strings where the tokens of query and document are known."""
    pairs = []
    for match in matches:
        name = query_tokens[match.query_token] if query_tokens else f"token {match.query_token}"
        token, start, end = document[match.document_token] if document else (None, 0, 0)
        pairs.append(TokenMatch(name, token, match.score, start, end))
    return Explanation(query, id_, sum(match.score for match in matches), text, tuple(pairs))


def _snippet(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _SNIPPET else line[: _SNIPPET - 1] + "…"
