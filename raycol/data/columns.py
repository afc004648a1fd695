"""Which columns of training examples are what: told by their usual names, or else by their position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

# The first name of a role wins; of the others only one may be there.
_QUERY = ("query", "anchor", "question", "sentence1", "sentence_1", "query_text")
# Those of passages and contexts hold objects of a title and a text (Tevatron, DPR).
_POSITIVE = ("positive", "pos", "positives", "positive_passages", "positive_ctxs")
# What else it is called, beside a query: where there is only a query's id, a text may be the query itself.
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
# Never a text. The last three are what pandas makes of an index.
_NO_TEXT = re.compile(r"(?:.*[_-])?ids?(?:_\d+)?|[qdp]ids?|docids?|__.*|unnamed: \d+|")

EXPECTED = (
    "'query' and 'positive' (with 'negative', 'negative_1' and so on, or 'negatives'), or 'query', 'documents' and "
    "'scores', or 'query_id', 'document_ids' and 'scores'"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns. What has no texts has ids, whose texts are to be looked up.

    Args:
        query: the query's text.
        positive: the positive's text.
        others: further documents, or all of them where `positive` is None: each a text, or a list of texts.
        scores: the teacher's.
        query_id: the query's id.
        document_ids: ids of all documents.
        positive_ids: else the positive's id.
        negative_ids: and those of the further documents.
        by_position: no name was known.
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
        """Whether a text in it is a list written as one: by its name it holds several."""
        return name.lower().endswith(_PLURAL) and not self.by_position

    @property
    def has_texts(self) -> bool:
        """Whether the documents are here, not only their ids."""
        return bool(self.positive or self.others)

    @property
    def has_positive(self) -> bool:
        """Whether the first document is the positive whatever the scores are."""
        return bool(self.positive if self.has_texts else self.positive_ids)

    def describe(self) -> str:
        """Which column is taken for what, in one line."""
        roles = {"query": self.query, "positive": self.positive, "scores": self.scores}
        found = [f"{name!r} is the {role}" for role, name in roles.items() if name]
        if self.others:
            found.insert(-1 if self.scores else len(found), f"{list_names(self.others)} further documents")
        return ", ".join(found)

    def names(self) -> list[str]:
        """All of them, each once."""
        texts = (self.query, self.positive, *self.others, self.scores)
        ids = (self.query_id, self.document_ids, self.positive_ids, *self.negative_ids)
        return list(dict.fromkeys(name for name in (*texts, *ids) if name))


@lru_cache(maxsize=1024)
def find_columns(names: tuple[str, ...], *, positions: bool = True) -> Columns:
    """Tell which columns are what, by their `positions` where no name is known.

    Raises:
        ValueError: what is missing, or could be two things.
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
        raise ValueError(f"both {documents[0]!r} and {(*positives, *negatives)[0]!r}; keep the ones or the others")
    usual = _ANSWER if query and not positives else _POSITIVE
    positive = None if documents else _one_of(usual, by_name, "positive")
    if not query and not query_id:
        known = positive or documents or negatives or document_ids or positive_ids
        if known or not positions or any(name in by_name for name in _ANSWER):
            raise ValueError(_missing("query", names))
        return _by_position(names, scores)
    if not (positive or documents) and (negatives or not (document_ids or positive_ids)):
        raise ValueError(_missing("positive", names))
    found = Columns(
        query, positive, documents or negatives, scores, query_id, document_ids, positive_ids, negative_ids
    )
    if not found.has_positive and not scores:
        raise ValueError(
            f"documents without scores ({list_names(names)}), so that none is known to be the positive; bring "
            "'scores', or name the positive 'positive' and the others 'negatives'"
        )
    return found


def named_columns(named: Mapping[str, str], names: tuple[str, ...]) -> Columns:
    """The columns that somebody named.

    Args:
        named: their names by what they are, which is one of the usual names: {"query": "title", "positive": "text"}.
        names: of all columns.

    Raises:
        ValueError: one is not there, is nothing that examples have, or others are missing.
    """
    if lost := sorted({*named.values()} - {*names}):
        raise ValueError(f"has no column {lost[0]!r}, which 'columns' names; it has {list_names(names)}")
    found = find_columns(tuple(named), positions=False)
    if unknown := sorted({*named} - {*found.names()}):
        raise ValueError(f"'columns' names {unknown[0]!r}, which examples do not have; expected {EXPECTED}")

    def real(role: str | None) -> str | None:
        return named[role] if role else None

    return Columns(
        real(found.query),
        real(found.positive),
        tuple(named[role] for role in found.others),
        real(found.scores),
        real(found.query_id),
        real(found.document_ids),
        real(found.positive_ids),
        tuple(named[role] for role in found.negative_ids),
    )


def is_name(text: str) -> bool:
    """Whether a field of a file's first line may be a column's name, rather than a text."""
    return len(text) <= 64 and re.fullmatch(r"[\w.:-]+", text) is not None


def is_known(name: str) -> bool:
    """Whether a column of this name is taken for something by its name."""
    name = name.lower()
    usual = (_QUERY, _POSITIVE, _ANSWER, _DOCUMENTS, _SCORES, _QUERY_ID, _DOCUMENT_IDS, _POSITIVE_IDS)
    return any(name in names for names in usual) or any(
        pattern.fullmatch(name) for pattern in (_NUMBERED, _NEGATIVE, _NEGATIVE_ID)
    )


def first_name(usual: Iterable[str], names: Iterable[str]) -> str | None:
    """The first of the usual names that is among `names`, in capitals or not."""
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(name.lower(), name)
    return next((lowered[name] for name in usual if name in lowered), None)


def _by_position(names: Sequence[str], scores: str | None) -> Columns:
    texts = [name for name in names if name != scores and not _NO_TEXT.fullmatch(name.lower())]
    if len(texts) < 2:
        raise ValueError(_missing("query", names))
    query, positive, *others = texts
    return Columns(query, positive, tuple(others), scores, by_position=True)


def _first_of(usual: tuple[str, ...], by_name: dict[str, str]) -> str | None:
    return next((by_name[name] for name in usual if name in by_name), None)


def _one_of(usual: tuple[str, ...], by_name: dict[str, str], role: str) -> str | None:
    found = [by_name[name] for name in usual if name in by_name]
    if len(found) > 1 and role not in by_name:
        raise ValueError(f"{found[0]!r} and {found[1]!r} may both be the {role}; name the one that is {role!r}")
    return found[0] if found else None


def _matching(pattern: re.Pattern[str], by_name: dict[str, str]) -> tuple[str, ...]:
    """Names that match, those with a number last and by their number."""
    found = []
    for lowered, name in by_name.items():
        if match := pattern.fullmatch(lowered):
            digits = next(filter(None, match.groups()), "")
            found.append((int(digits or -1), name))
    return tuple(name for _, name in sorted(found))


def _missing(role: str, names: Sequence[str]) -> str:
    return f"no {role!r}, only {list_names(names)}; expected {EXPECTED}"


def list_names(names: Sequence[str]) -> str:
    """Names of columns for a message."""
    return ", ".join(map(repr, names))[:500] or "an empty object"
