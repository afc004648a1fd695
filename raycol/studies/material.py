"""The collections of a study: copies in its folder, cut to a number of documents, in BEIR's layout."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from raycol.data import Passage
from raycol.data.beir import open_beir, save_beir
from raycol.data.collection import Collection, Dataset, is_query_copy
from raycol.data.collections import CollectionRef
from raycol.data.qrels import Qrels
from raycol.errors import InputError, writing
from raycol.evaluation.top_hits import Hits
from raycol.studies.config import StudyConfig

POOLED = "all pooled"
"""Name of the union of all collections."""
_ABOUT = "collection.json"
_SPLIT = "test"


@dataclass(frozen=True)
class StudyCollection:
    """A collection of a study, or the union of several.

    Args:
        name: its name.
        members: folders by name; ids of a union get the name of their collection as a prefix.
    """

    name: str
    members: Mapping[str, Path]

    @property
    def folder(self) -> Path:
        """Where the study keeps what is computed once of this collection."""
        first = next(iter(self.members.values()))
        return first if len(self.members) == 1 else first.parent / quote(self.name, safe="")

    def passages(self) -> Iterator[Passage]:
        """Yield the documents, with the ids of this collection."""
        for name, folder in self.members.items():
            for passage in open_beir(folder).passages():
                yield Passage(self.id_of(name, passage.id), passage.title, passage.text)

    def topics(self) -> Topics:
        """Read the queries and judgements."""
        topics = Topics()
        for name, folder in self.members.items():
            collection, excluded = open_beir(folder), json.loads((folder / _ABOUT).read_text())["excluded"]
            for query, text in collection.queries.items():
                id_ = self.id_of(name, query)
                topics.queries[id_] = text
                topics.qrels[id_] = {self.id_of(name, one): grade for one, grade in collection.qrels[query].items()}
                topics.excluded[id_] = {self.id_of(name, one) for one in excluded.get(query, ())}
        return topics

    @property
    def notes(self) -> list[str]:
        """What is missing or was left out, a sentence each."""
        abouts = {name: json.loads((folder / _ABOUT).read_text()) for name, folder in self.members.items()}
        return [f"{name}: {note}" for name, about in abouts.items() for note in about["notes"]]

    def id_of(self, member: str, id_: str) -> str:
        """Id of a member's query or document in this collection."""
        return id_ if len(self.members) == 1 else f"{member}/{id_}"


@dataclass
class Topics:
    """Queries, judgements, and documents that do not count as hits, by query id."""

    queries: dict[str, str] = field(default_factory=dict)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    excluded: dict[str, set[str]] = field(default_factory=dict)

    def run(self, hits: Sequence[Hits]) -> dict[str, dict[str, float]]:
        """Return a run of the hits of each query, in the order of the queries, without excluded documents."""
        return {
            query: {id_: score for id_, score in found if id_ not in self.excluded[query]}
            for query, found in zip(self.queries, hits, strict=True)
        }


def copy_collection(reference: CollectionRef, parent: Path, config: StudyConfig) -> StudyCollection:
    """Copy a collection into a study's folder, unless it is there, and cut it to a number of queries and documents.

    Args:
        reference: the collection.
        parent: the study's folder of collections.
        config: the settings.

    Raises:
        InputError: a file of the collection is malformed, or no query is left.
    """
    folder = parent / quote(reference.name, safe="")
    if not folder.exists():
        collection = reference.open()
        dataset = collection.dataset(config.on_error)
        notes = [*dataset.notes, *([f"{len(dataset.skipped)} unusable records are skipped"] * bool(dataset.skipped))]
        excluded = _excluded(collection, dataset)
        if config.queries:
            dataset = sample_queries(dataset, config.queries, config.seed)
        if config.documents:
            dataset = cut(dataset, config.documents, config.seed)
        unfinished = folder.with_name(f".{folder.name}.tmp")
        with writing(folder):
            shutil.rmtree(unfinished, ignore_errors=True)
            save_beir(unfinished, dataset, _SPLIT)
            about = {"excluded": {query: excluded[query] for query in dataset.queries}, "notes": notes}
            (unfinished / _ABOUT).write_text(json.dumps(about))
            os.replace(unfinished, folder)
    return StudyCollection(reference.name, {reference.name: folder})


def _excluded(collection: Collection, dataset: Dataset) -> dict[str, list[str]]:
    copies = {passage.id for passage in dataset.passages if is_query_copy(passage, dataset.queries, dataset.qrels)}
    return {
        query: sorted(collection.excluded.get(query, frozenset()) | ({query} & copies)) for query in dataset.queries
    }


def sample_queries(dataset: Dataset, queries: int, seed: int) -> Dataset:
    """Cut a dataset to a number of queries, at random; they keep their order."""
    if len(dataset.queries) <= queries:
        return dataset
    kept = set(random.Random(seed).sample(list(dataset.queries), queries))  # noqa: S311 - a sample, not a secret
    return replace(
        dataset,
        queries={query: text for query, text in dataset.queries.items() if query in kept},
        qrels={query: grades for query, grades in dataset.qrels.items() if query in kept},
    )


def cut(dataset: Dataset, documents: int, seed: int) -> Dataset:
    """Cut a dataset to a number of documents; its documents and queries keep their order.

    Queries are taken in random order, as long as their relevant documents are no more than half of `documents`. The
    other documents are chosen at random.

    Raises:
        InputError: no query's relevant documents fit.
    """
    if len(dataset.passages) <= documents:
        return dataset
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    ids = {passage.id for passage in dataset.passages}
    kept: set[str] = set()
    queries: set[str] = set()
    for query in rng.sample(list(dataset.queries), len(dataset.queries)):
        relevant = {id_ for id_, grade in dataset.qrels[query].items() if grade > 0 and id_ in ids}
        if relevant and len(kept | relevant) <= documents // 2:
            kept |= relevant
            queries.add(query)
    if not queries:
        raise InputError(f"documents is {documents}: no query's relevant documents are so few; cut to more documents")
    others = [passage.id for passage in dataset.passages if passage.id not in kept]
    kept |= set(rng.sample(others, documents - len(kept)))
    qrels: Qrels = {
        query: {id_: grade for id_, grade in grades.items() if id_ in kept}
        for query, grades in dataset.qrels.items()
        if query in queries
    }
    return Dataset(
        [passage for passage in dataset.passages if passage.id in kept],
        {query: text for query, text in dataset.queries.items() if query in queries},
        qrels,
    )
