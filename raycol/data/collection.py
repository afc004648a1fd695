"""Test collections: a corpus, queries and judgements.

A `Collection` reads its corpus from files, a passage at a time; a `Dataset` holds it in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from raycol.data.corpus import OnError, Passage, read_passages
from raycol.data.fields import Fields
from raycol.data.qrels import Qrels
from raycol.data.readers.reader import BadRecord, CorpusFile
from raycol.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """A retrieval test collection: passages, queries by id, and judgements by query and passage id.

    `notes` are caveats about the metrics: what is missing, repeated or left out.
    """

    passages: list[Passage]
    queries: dict[str, str]
    qrels: Qrels
    skipped: tuple[BadRecord, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Collection:
    """A test collection whose corpus stays in its files.

    Args:
        location: path, URI or name of the dataset, for messages.
        corpus_files: the corpus, in order.
        queries: texts by id, of the judged queries only.
        qrels: grades by query and document id.
        notes: caveats about the metrics, a sentence each.
        excluded: by query id, the documents that never count as its hits, as in BRIGHT.
        fields: names of the fields of the corpus.
        name: unique among the collections of a benchmark.
        group: collections of one group are averaged first, such as the forums of CQADupStack.
        split: of the judgements; empty if they have none, or the name includes it.
    """

    location: str
    corpus_files: tuple[CorpusFile, ...]
    queries: dict[str, str]
    qrels: Qrels
    notes: tuple[str, ...] = ()
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fields: Fields = field(default_factory=Fields)
    name: str = ""
    group: str | None = None
    split: str = ""

    def passages(self, on_error: OnError = "fail", problems: list[BadRecord] | None = None) -> Iterator[Passage]:
        """Yield the passages of the corpus; see `read_passages`."""
        return read_passages(self.corpus_files, self.location, on_error, problems, self.fields)

    def dataset(self, on_error: OnError = "fail") -> Dataset:
        """Read the corpus into memory.

        Raises:
            InputError: a record is unusable, unless skipped, or the corpus has none of the judged documents.
        """
        problems: list[BadRecord] = []
        survey = CorpusSurvey(self)
        passages = []
        for passage in self.passages(on_error, problems):
            survey.add(passage)
            passages.append(passage)
        return Dataset(passages, self.queries, self.qrels, tuple(problems), (*self.notes, *survey.notes()))


class CorpusSurvey:
    """What one pass over a corpus says about the judgements and queries of its collection.

    Memory grows with the judgements and queries, not with the corpus. `add` may be the `check` of `plan_build`.

    Args:
        collection: the collection.
    """

    def __init__(self, collection: Collection) -> None:
        self.documents = 0
        self.copies: set[str] = set()
        """Ids of the passages that are copies of queries; see `is_query_copy`."""
        self._collection = collection
        self._judged = {id_ for grades in collection.qrels.values() for id_ in grades}
        self._found: set[str] = set()
        self._first = ""

    def add(self, passage: Passage) -> None:
        """Take note of the next passage."""
        self._first = self._first or passage.id
        self.documents += 1
        if passage.id in self._judged:
            self._found.add(passage.id)
        if is_query_copy(passage, self._collection.queries, self._collection.qrels):
            self.copies.add(passage.id)

    def notes(self) -> list[str]:
        """Notes on judged documents that the corpus lacks.

        Raises:
            InputError: it lacks all of them.
        """
        corpus = f"the corpus of {self._collection.location} (which has {self._first!r:.60})"
        return missing_documents(self._collection.qrels, self._found.__contains__, corpus)


def is_query_copy(passage: Passage, queries: Mapping[str, str], qrels: Qrels) -> bool:
    """Whether a passage is the query of its id, with the same text, and not judged for it.

    In collections such as ArguAna the corpus contains the queries, and BEIR's evaluation drops hits with the id of
    their query. Other collections number queries and documents independently, so the texts must match too.
    """
    query = queries.get(passage.id)
    if query is None or passage.id in qrels.get(passage.id, {}):
        return False
    return _normalize(query) in (_normalize(passage.text), _normalize(passage.content))


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())


def missing_documents(qrels: Qrels, has_document: Callable[[str], bool], collection: str) -> list[str]:
    """A note if judged documents are missing from the collection, so that metrics count them as not retrieved.

    Args:
        qrels: the judgements.
        has_document: whether the collection has a document id.
        collection: name of the collection, for the note.

    Raises:
        InputError: all of them are missing: the judgements belong to another collection or use other ids.
    """
    judged = list(dict.fromkeys(id_ for grades in qrels.values() for id_ in grades))
    missing = [id_ for id_ in judged if not has_document(id_)]
    if judged and len(missing) == len(judged):
        raise InputError(
            f"none of the {len(judged)} judged documents, such as {judged[0]!r:.60}, is in {collection}; expected "
            "judgements with the ids of its documents"
        )
    if not missing:
        return []
    return [f"{len(missing)} of {len(judged)} judged documents, such as {missing[0]!r:.60}, are not in {collection}"]
