"""Documents of a batch that are no negatives of a query: its known positives, and others that score too high.

Shapes: Q queries, N documents, P known positives of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Further features of queries and of documents. TEXT_IDS: the id of each text [B]; of queries, that of the query.
# POSITIVE_IDS: the ids of each query's known positives [B, P]; of first documents, those of the queries that they are
# positives of. Lists are padded with -1.
TEXT_IDS, POSITIVE_IDS = "text_ids", "positive_ids"


class KnownPositives:
    """The positives of each query, over all examples of a training set.

    Args:
        queries_N: query id of each example.
        positives_N: id of each example's positive.
        symmetric: also add what a loss of each positive among all queries needs.
    """

    def __init__(self, queries_N: NDArray[np.int64], positives_N: NDArray[np.int64], *, symmetric: bool) -> None:
        self._positives = _Lists(queries_N, positives_N)
        self._queries = _Lists(positives_N, queries_N) if symmetric else None

    def columns(self, query: int, documents: Sequence[int]) -> dict[str, Any]:
        """Ids as columns of an example, from the ids of its query and its documents."""
        columns: dict[str, Any] = {f"query_{POSITIVE_IDS}": self._positives.of(query)}
        columns |= {f"document_{number}_{TEXT_IDS}": one for number, one in enumerate(documents, start=1)}
        if self._queries:
            columns |= {f"query_{TEXT_IDS}": query, f"document_1_{POSITIVE_IDS}": self._queries.of(documents[0])}
        return columns


class _Lists:
    """Distinct values of each key.

    Args:
        keys_N, values_N: pairs.
    """

    def __init__(self, keys_N: NDArray[np.int64], values_N: NDArray[np.int64]) -> None:
        order = np.lexsort((values_N, keys_N))
        self._keys_N, self._values_N = keys_N[order], values_N[order]

    def of(self, key: int) -> NDArray[np.int64]:
        begin, end = np.searchsorted(self._keys_N, [key, key + 1])
        return np.unique(self._values_N[begin:end])


def is_ids(column: str) -> bool:
    """Whether a column of an example holds ids, not a text."""
    return column.endswith((f"_{TEXT_IDS}", f"_{POSITIVE_IDS}"))


def collate_ids(values: Sequence[int] | Sequence[NDArray[np.int64]]) -> Tensor:
    """A column of ids as a tensor; lists are padded with -1."""
    if isinstance(values[0], int):
        return torch.tensor(values)
    lists = [torch.from_numpy(one) for one in values]
    return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)


def positives_among(positive_ids_QP: Tensor, ids_N: Tensor, own_Q: Tensor) -> Tensor:
    """Return which documents are known positives of a query, besides the one it is trained on [Q, N].

    Args:
        positive_ids_QP: ids of the queries' known positives, padded with -1.
        ids_N: ids of the documents, none negative; the same id means the same text.
        own_Q: position of each query's own positive among them.
    """
    occurs_QP = torch.isin(positive_ids_QP, ids_N)
    # Few of a query's positives occur in a batch: only their columns are compared.
    first_QP = torch.sort(occurs_QP.int(), dim=1, descending=True).indices[:, : int(occurs_QP.sum(dim=1).max())]
    found_QN = torch.zeros(len(own_Q), len(ids_N), dtype=torch.bool, device=ids_N.device)
    for column_Q in positive_ids_QP.gather(1, first_QP).unbind(dim=1):
        found_QN |= column_Q[:, None] == ids_N
    return found_QN.scatter_(1, own_Q[:, None], value=False)


@dataclass
class Mask:
    """Sets the scores of false negatives to -inf, so that no softmax or margin counts them.

    Args:
        own_Q: position of each query's own positive among all documents.
        margin: a document that scores higher than the own positive by more than it is a false negative.
        guide_QN: scores by a guide to compare, in place of the model's own.
        known_QN: known positives of the queries, without their own.
        n_pairs: number of pairs left out.
    """

    own_Q: Tensor
    margin: float | None = None
    guide_QN: Tensor | None = None
    known_QN: Tensor | None = None
    n_pairs: Tensor | int = 0

    def __call__(self, scores_QN: Tensor) -> Tensor:
        """Return the scores with those of false negatives replaced."""
        left_out_QN = self.known_QN
        if self.margin is not None:
            fixed_QN = scores_QN.detach() if self.guide_QN is None else self.guide_QN
            high_QN = fixed_QN > fixed_QN.gather(1, self.own_Q[:, None]) + self.margin
            high_QN.scatter_(1, self.own_Q[:, None], value=False)  # the margin may be negative
            left_out_QN = high_QN if left_out_QN is None else left_out_QN | high_QN
        if left_out_QN is None:
            return scores_QN
        self.n_pairs = left_out_QN.sum()
        return scores_QN.masked_fill(left_out_QN, -torch.inf)
