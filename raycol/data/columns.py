"""Map the columns of training examples to their roles, by common names or by position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Role = Literal["query", "document"]

# The first name of a role takes precedence over the others, of which a record may have only one.
_QUERY = ("query", "anchor", "question", "sentence1", "sentence_1", "query_text")
# `positive_passages` (Tevatron) and `positive_ctxs` (DPR) hold objects with a title and a text.
_POSITIVE = ("positive", "pos", "positives", "positive_passages", "positive_ctxs")
# Names of the positive beside a query text. Beside a query id alone, such a column may be the query's text.
_ANSWER = ("answer", "response", "sentence2", "sentence_2", "passage", "document", "context", "text", "content")
_DOCUMENTS = ("documents", "docs", "passages")
_SCORES = ("scores", "score", "labels", "label")
_QUERY_ID = ("query_id", "query-id", "qid", "question_id", "anchor_id")
_DOCUMENT_IDS = ("document_ids", "doc_ids", "docids", "passage_ids", "pids", "corpus_ids")
_POSITIVE_IDS = ("positive_id", "positive_ids", "pos_id", "pos_ids", "positive_document_ids", "positive_passage_ids",
                 "positive_docids", "positive_pids")  # fmt: skip
_NUMBERED = re.compile(r"(?:documents?|docs?|passages?)[_-]?(\d{1,9})")
_NEGATIVE = re.compile(r"(?:hard_)?neg(?:ative)?(?:s?[_-]?(\d{0,9})|_passages|_ctxs)")
_NEGATIVE_ID = re.compile(
    r"(?:hard_)?neg(?:ative)?s?(?:_ids?(?:_(\d{1,9}))?|_(\d{1,9})_ids?|_(?:document_|passage_|doc|p)ids?)"
)
_PLURAL = ("documents", "docs", "passages", "negatives", "negs", "positives", "ids", "ctxs")
# Never a text. The last three patterns are index columns written by pandas.
_NO_TEXT = re.compile(r"(?:.*[_-])?ids?(?:_\d+)?|[qdp]ids?|docids?|__.*|unnamed: \d+|")

EXPECTED = (
    "'query' and 'positive' (with 'negative', 'negative_1' and so on, or 'negatives'), or 'query', 'documents' and "
    "'scores', or 'query_id', 'document_ids' and 'scores'"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns by role. Without a text column, texts are looked up by id.

    Args:
        query: the query's text.
        positive: the positive's text.
        others: further documents, or all documents if `positive` is None; each a text or a list of texts.
        scores: the teacher's scores.
        query_id: the query's id.
        document_ids: ids of all documents.
        positive_ids: id of the positive, if there are no `document_ids`.
        negative_ids: ids of the negatives, if there are no `document_ids`.
        by_position: the roles were assigned by position, since no name is known.
    """

    query: str | None = None
    positive: str | None = None
    others: tuple[str, ...] = ()
    scores: str | None = None
    query_id: str | None = None
    document_ids: str | None = None
    positive_ids: str | None = None
    negative_ids: tuple[str, ...] = ()
    by_position: bool = False

    def is_list(self, name: str) -> bool:
        """Whether a string in a column is a serialised list: its name is a plural."""
        return name.lower().endswith(_PLURAL) and not self.by_position

    @property
    def has_texts(self) -> bool:
        """Whether there are columns of document texts, not only of ids."""
        return bool(self.positive or self.others)

    @property
    def has_positive(self) -> bool:
        """Whether the first document is the positive regardless of the scores."""
        return bool(self.positive if self.has_texts else self.positive_ids)

    def describe(self) -> str:
        """The role of each column, on one line."""
        roles = {"query": self.query, "positive": self.positive, "scores": self.scores}
        parts = [f"{name!r} is the {role}" for role, name in roles.items() if name]
        if self.others:
            parts.insert(-1 if self.scores else len(parts), f"{quote_names(self.others)} further documents")
        return ", ".join(parts)

    def names(self) -> list[str]:
        """Names of all columns, each once."""
        texts = (self.query, self.positive, *self.others, self.scores)
        ids = (self.query_id, self.document_ids, self.positive_ids, *self.negative_ids)
        return list(dict.fromkeys(name for name in (*texts, *ids) if name))


@lru_cache(maxsize=1024)
def find_columns(names: tuple[str, ...], *, allow_positional: bool = True) -> Columns:
    """Assign roles to columns by their names; if no name is known and `allow_positional`, by their order.

    Raises:
        ValueError: a role is missing or ambiguous.
    """
    by_name: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name != name.lower()):
        by_name.setdefault(name.lower(), name)
    scores = _one_of(_SCORES, by_name, "scores")
    query, query_id = _one_of(_QUERY, by_name, "query"), _first_of(_QUERY_ID, by_name)
    document_ids, positive_ids = _first_of(_DOCUMENT_IDS, by_name), _first_of(_POSITIVE_IDS, by_name)
    negative_ids = () if document_ids else _matching(_NEGATIVE_ID, by_name)
    positive_ids = None if document_ids else positive_ids
    positives = [by_name[name] for name in _POSITIVE if name in by_name]
    negatives = _matching(_NEGATIVE, by_name)
    documents = tuple(by_name[name] for name in _DOCUMENTS if name in by_name) or _matching(_NUMBERED, by_name)
    if documents and (positives or negatives):
        raise ValueError(f"both {documents[0]!r} and {(*positives, *negatives)[0]!r}; keep one of them")
    common = _ANSWER if query and not positives else _POSITIVE
    positive = None if documents else _one_of(common, by_name, "positive")
    if not query and not query_id:
        known = positive or documents or negatives or document_ids or positive_ids
        if known or not allow_positional or any(name in by_name for name in _ANSWER):
            raise ValueError(_missing("query", names))
        return _by_position(names, scores)
    if not (positive or documents) and (negatives or not (document_ids or positive_ids)):
        raise ValueError(_missing("positive", names))
    columns = Columns(
        query, positive, documents or negatives, scores, query_id, document_ids, positive_ids, negative_ids
    )
    if not columns.has_positive and not scores:
        raise ValueError(
            f"documents without scores ({quote_names(names)}), so no positive is known; add 'scores', or name the "
            "positive 'positive' and the others 'negatives'"
        )
    return columns


def map_columns(mapping: Mapping[str, str], names: tuple[str, ...]) -> Columns:
    """Assign roles to columns by a mapping given by the user.

    Args:
        mapping: column names by role, such as {"query": "title", "positive": "text"}. A role is any common name.
        names: names of all columns.

    Raises:
        ValueError: a mapped column does not exist, a role is unknown, or a required role is missing.
    """
    if missing := sorted({*mapping.values()} - {*names}):
        raise ValueError(f"has no column {missing[0]!r}, which 'columns' names; it has {quote_names(names)}")
    roles = find_columns(tuple(mapping), allow_positional=False)
    if unknown := sorted({*mapping} - {*roles.names()}):
        raise ValueError(f"'columns' has the unknown role {unknown[0]!r}; expected {EXPECTED}")

    def column(role: str | None) -> str | None:
        return mapping[role] if role else None

    return Columns(
        column(roles.query),
        column(roles.positive),
        tuple(mapping[role] for role in roles.others),
        column(roles.scores),
        column(roles.query_id),
        column(roles.document_ids),
        column(roles.positive_ids),
        tuple(mapping[role] for role in roles.negative_ids),
    )


def may_be_name(text: str) -> bool:
    """Whether a field of a file's first line may be a column name rather than a text."""
    return len(text) <= 64 and re.fullmatch(r"[\w.:-]+", text) is not None


def is_known(name: str) -> bool:
    """Whether a column name has a known role."""
    name = name.lower()
    common = (_QUERY, _POSITIVE, _ANSWER, _DOCUMENTS, _SCORES, _QUERY_ID, _DOCUMENT_IDS, _POSITIVE_IDS)
    return any(name in names for names in common) or any(
        pattern.fullmatch(name) for pattern in (_NUMBERED, _NEGATIVE, _NEGATIVE_ID)
    )


def first_match(candidates: Iterable[str], names: Iterable[str]) -> str | None:
    """The name that matches the earliest candidate, in any case; None if none matches."""
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(name.lower(), name)
    return next((lowered[candidate] for candidate in candidates if candidate in lowered), None)


def _by_position(names: Sequence[str], scores: str | None) -> Columns:
    texts = [name for name in names if name != scores and not _NO_TEXT.fullmatch(name.lower())]
    if len(texts) < 2:
        raise ValueError(_missing("query", names))
    query, positive, *others = texts
    return Columns(query, positive, tuple(others), scores, by_position=True)


def _first_of(candidates: tuple[str, ...], by_name: dict[str, str]) -> str | None:
    return next((by_name[name] for name in candidates if name in by_name), None)


def _one_of(candidates: tuple[str, ...], by_name: dict[str, str], role: str) -> str | None:
    matches = [by_name[name] for name in candidates if name in by_name]
    if len(matches) > 1 and role not in by_name:
        raise ValueError(f"{matches[0]!r} and {matches[1]!r} may both be the {role}; rename the right one to {role!r}")
    return matches[0] if matches else None


def _matching(pattern: re.Pattern[str], by_name: dict[str, str]) -> tuple[str, ...]:
    """Names that match a pattern: unnumbered ones first, then by number."""
    numbered = []
    for lowered, name in by_name.items():
        if match := pattern.fullmatch(lowered):
            digits = next(filter(None, match.groups()), "")
            numbered.append((int(digits or -1), name))
    return tuple(name for _, name in sorted(numbered))


def _missing(role: str, names: Sequence[str]) -> str:
    return f"no {role!r}, only {quote_names(names)}; expected {EXPECTED}"


def quote_names(names: Sequence[str]) -> str:
    """Column names for a message: quoted, separated by commas, truncated."""
    return ", ".join(map(repr, names))[:500] or "an empty object"
