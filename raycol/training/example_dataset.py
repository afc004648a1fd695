"""The examples of a training set as rows of a torch dataset: padded, with the ids that masks need."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

from raycol.errors import InputError
from raycol.training.batches import BatchPlan
from raycol.training.dataset import TrainingRow, TrainingSet
from raycol.training.positives import KnownPositives

# Random examples drawn per missing document of a short example.
_DRAWS_PER_DOCUMENT = 16


class ExampleDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Torch dataset of a training set's examples, as columns: query, documents, and teacher scores as the label.

    An item's key is the number of an example and that of its batch. Of examples with more documents than the source's
    `n_ways`, each batch has a new sample: the positive (with scores, the document with the highest one) and random
    others, the same for any number of workers.

    Shorter examples are padded. With teacher scores, an example repeats its own documents
    and their scores. Otherwise it gets positives of other queries, which act like in-batch negatives; the RNG is
    seeded per example, so the choice does not depend on the number of workers.

    The column dataset_name is the number of the source, as a string; by it sentence-transformers chooses the loss.

    Args:
        examples: the training set.
        plan: its batches.
        with_ids: sources of which the ids of the texts and of the query's positives are further columns.
        symmetric: sources of which the ids of the queries that the first document is a positive of are another one.
    """

    def __init__(
        self,
        examples: TrainingSet,
        plan: BatchPlan,
        *,
        with_ids: Collection[int] = (),
        symmetric: Collection[int] = (),
    ) -> None:
        self._examples = examples
        self._plan = plan
        self._with_ids, self._symmetric = with_ids, symmetric
        self._known: dict[int, KnownPositives] = {}  # by shard

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        number, batch = key
        row, source_number = self._examples[number], self._examples.source(number)
        source = self._plan.sources[source_number]
        n_missing = source.n_ways - len(row.documents)
        if n_missing < 0:
            row = _select(row, self._sample(row, source.n_ways, [number, batch]))
        elif n_missing and row.scores is not None:
            row = _select(row, [*islice(cycle(range(len(row.documents))), source.n_ways)])
        elif n_missing:
            row = self._pad_with_negatives(number, row, n_missing)
        columns = {**to_columns(row), "dataset_name": str(source_number)}
        if source_number in self._with_ids:
            columns |= self._known_positives(number).columns(row.query_id, row.document_ids)
        return columns

    def _sample(self, row: TrainingRow, n_ways: int, seed: list[int]) -> list[int]:
        """Sorted positions of the positive and `n_ways - 1` random other documents."""
        positive = int(np.argmax(row.scores)) if row.scores else 0
        others = [one for one in range(len(row.documents)) if one != positive]
        rng = np.random.default_rng([self._plan.seed, 4, *seed])
        return sorted([positive, *rng.choice(others, n_ways - 1, replace=False).tolist()])

    def _known_positives(self, number: int) -> KnownPositives:
        """Known positives in an example's shard: it has all examples of its queries, and most of its batch."""
        index = self._examples.shard_of(number)
        if index not in self._known:
            if len(self._known) > len(self._plan.sources):
                self._known.clear()
            shard = self._examples.shard(index)
            symmetric = self._examples.shards[index].source in self._symmetric
            self._known[index] = KnownPositives(shard.queries_N, shard.positives_N, symmetric=symmetric)
        return self._known[index]

    def _pad_with_negatives(self, number: int, row: TrainingRow, n: int) -> TrainingRow:
        """Add `n` random positives of other queries; if too few, repeat them and the example's own negatives.

        Raises:
            InputError: the shard has no other positive, and the example no negative.
        """
        rng = np.random.default_rng([self._plan.seed, 3, number])
        shard = self._examples.shard(self._examples.shard_of(number))
        sampled: dict[int, str] = {}
        for other in rng.choice(len(shard.numbers_N), _DRAWS_PER_DOCUMENT * n).tolist():
            query, positive = int(shard.queries_N[other]), int(shard.positives_N[other])
            if query in self._plan.held_out or query == row.query_id or positive in (*row.document_ids, *sampled):
                continue
            sampled[positive] = self._examples[int(shard.numbers_N[other])].documents[0]
            if len(sampled) == n:
                break
        negatives = [*zip(row.document_ids[1:], row.documents[1:], strict=True), *sampled.items()]
        if not negatives:
            raise InputError(
                f"{self._examples.where(number)}: has no negative, and no other query has a different positive to use "
                "as one; add negatives (raycol mine)"
            )
        padding = [*sampled.items(), *islice(cycle(negatives), n - len(sampled))]
        ids, texts = zip(*padding, strict=True)
        return replace(row, documents=[*row.documents, *texts], document_ids=[*row.document_ids, *ids])


def _select(row: TrainingRow, positions: list[int]) -> TrainingRow:
    """The example with the documents at these positions."""
    return replace(
        row,
        documents=[row.documents[one] for one in positions],
        scores=row.scores and [row.scores[one] for one in positions],
        document_ids=[row.document_ids[one] for one in positions],
    )


def to_columns(row: TrainingRow) -> dict[str, Any]:
    """An example as the columns query, document_1, document_2, ..., and label if it has scores."""
    columns: dict[str, Any] = {"query": row.query}
    columns |= {f"document_{number}": text for number, text in enumerate(row.documents, start=1)}
    return columns if row.scores is None else {**columns, "label": row.scores}
