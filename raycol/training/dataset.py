"""The training set: the examples of all sources, validated and written once to a folder of shards.

    prepared.json                   settings, sources and shards, with a checksum; written last
    <hash>/texts.arrow              the distinct texts of a shard, and an id of each
    <hash>/examples.arrow           a row per example, see `example_table.py`

A shard is a random part of one source. Training memory-maps one shard of a source at a time, so no file is read into
memory as a whole, and memory does not grow with the number of examples. The folder may be in an object store, of which
shards are downloaded when they are needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.errors import IndexCorruptError
from raycol.storage import Store, StoredFolder, open_store
from raycol.storage.checked_files import seal, unseal
from raycol.training.batches import ShardExamples
from raycol.training.example_table import EXAMPLES, TEXTS, map_batch

PREPARED = "prepared.json"
_MAX_BYTES = 256 << 20
# Shards kept open: those of the current batches, and some for single examples.
_OPEN_SHARDS = 16

Integers = NDArray[np.int64]


class SourceInfo(BaseModel):
    """Statistics of one source.

    Args:
        path: path, URI or hub name.
        weight: sampling weight, relative to the other sources.
        examples: number of training examples.
        n_ways: documents per example in a batch.
        skipped: number of unusable records.
        short: number of examples with fewer than `n_ways` documents, which are padded.
        left_out: number of other items left out, by kind.
    """

    path: str
    weight: float
    examples: int
    n_ways: int
    skipped: int
    short: int = 0
    left_out: dict[str, int] = {}

    def remarks(self) -> list[str]:
        """Phrases for reports on what was left out or padded."""
        counts = {"unusable records": self.skipped, **self.left_out}
        phrases = [f"{n:,} {kind} left out" for kind, n in counts.items() if n]
        if self.short:
            phrases.append(f"{self.short:,} examples with fewer than {self.n_ways} documents padded (`n_ways=`)")
        return phrases


class Shard(BaseModel):
    """A part of a source's examples, in a folder of the training set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: int
    examples: int
    stored: StoredFolder


class PreparedSet(BaseModel):
    """The content of `prepared.json`; the shards of a source follow each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    sources: tuple[SourceInfo, ...]
    shards: tuple[Shard, ...]

    @classmethod
    def read(cls, store: Store) -> PreparedSet | None:
        """Return the finished training set of a store; None if there is none, or its record is damaged."""
        try:
            return cls.model_validate_json(unseal(store.read(PREPARED, _MAX_BYTES)))
        except (OSError, ValueError):  # an outage of an object store raises another error
            return None

    def write(self, store: Store) -> None:
        """Write the record, which makes the training set whole."""
        store.write(PREPARED, seal(self.model_dump_json().encode()))


@dataclass(frozen=True)
class TrainingRow:
    """The texts of one example, their ids, and the teacher's scores of its documents, if any.

    Two texts have the same id if they are the same, whatever their source and their role.
    """

    query: str
    documents: list[str]
    scores: list[float] | None
    query_id: int
    document_ids: list[int]


class TrainingSet:
    """A finished training set; its examples are numbered through all shards.

    Args:
        location: folder or URI.

    Raises:
        IndexCorruptError: it is missing or damaged; so do the methods.
    """

    def __init__(self, location: str | Path) -> None:
        self._store = open_store(str(location))
        prepared = PreparedSet.read(self._store)
        if not prepared:
            raise IndexCorruptError(f"{self._store.location(PREPARED)}: missing or damaged")
        self.shards = prepared.shards
        self._ends = list(accumulate(shard.examples for shard in self.shards))
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        """Serialise as the location: data loaders pass it to their processes."""
        return TrainingSet, (self._store.uri,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> TrainingRow:
        shard, row = self._locate(number)
        return self._open(shard).example(row)

    def where(self, number: int) -> str:
        """Position of an example in its source, for error messages."""
        shard, row = self._locate(number)
        return self._open(shard).where(row)

    def source(self, number: int) -> int:
        """Index of the source of an example."""
        return self.shards[self.shard_of(number)].source

    def shard_of(self, number: int) -> int:
        """Index of the shard of an example."""
        return bisect_right(self._ends, number)

    def shard(self, index: int) -> ShardExamples:
        """Return what the batch plan needs of a shard."""
        queries_N, positives_N = self._open(index).ids
        first = self._ends[index] - len(queries_N)
        return ShardExamples(np.arange(first, first + len(queries_N)), queries_N, positives_N)

    def query_ids(self) -> Iterator[Integers]:
        """Yield the ids of the queries, shard by shard."""
        for index in range(len(self.shards)):
            yield self._open(index).ids[0]

    def _locate(self, number: int) -> tuple[int, int]:
        shard = self.shard_of(number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _open_shard(self, index: int) -> _OpenShard:
        return _OpenShard(self.shards[index].stored.open(self._store))


class _OpenShard:
    """The memory-mapped files of a shard."""

    def __init__(self, folder: Path) -> None:
        texts, self._examples = map_batch(folder / TEXTS), map_batch(folder / EXAMPLES)
        self._texts = texts.column("text")
        self._ids = texts.column("id").to_numpy()

    @cached_property
    def ids(self) -> tuple[Integers, Integers]:
        """Ids of each example's query, and of its positive: the document with the highest score, or the first one."""
        documents, scores = self._examples.column("documents"), self._examples.column("scores")
        positives = starts = documents.offsets.to_numpy()[:-1]
        if not scores.null_count:
            values = scores.values.to_numpy()
            highest = np.repeat(np.maximum.reduceat(values, starts), documents.value_lengths().to_numpy())
            best = np.flatnonzero(values == highest)
            positives = best[np.searchsorted(best, starts)]
        return self._ids[self._examples.column("query").to_numpy()], self._ids[documents.values.to_numpy()[positives]]

    def example(self, row: int) -> TrainingRow:
        query, documents, scores = (
            self._examples.column(name)[row].as_py() for name in ("query", "documents", "scores")
        )
        return TrainingRow(
            self._texts[query].as_py(),
            [self._texts[one].as_py() for one in documents],
            scores,
            int(self._ids[query]),
            self._ids[documents].tolist(),
        )

    def where(self, row: int) -> str:
        return str(self._examples.column("where")[row].as_py())
