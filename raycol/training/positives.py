"""Documents of a batch that are no negatives of a query: its known positives, and others that score too high.

Shapes: Q queries, N documents, P known positives of a query.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class KnownPositives:
    """The positives of each query, over all examples of a training set.

    Args:
        queries_N: query id of each example.
        positives_N: id of each example's positive.
    """

    def __init__(self, queries_N: NDArray[np.int64], positives_N: NDArray[np.int64]) -> None:
        order = np.lexsort((positives_N, queries_N))
        self._queries_N, self._positives_N = queries_N[order], positives_N[order]

    def of(self, query: int) -> NDArray[np.int64]:
        """Ids of a query's positives, sorted."""
        begin, end = np.searchsorted(self._queries_N, [query, query + 1])
        return np.unique(self._positives_N[begin:end])


def padded_ids(ids: list[NDArray[np.int64]]) -> Tensor:
    """Lists of ids as one tensor, padded with -1 at the end."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in ids], batch_first=True, padding_value=-1)


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
        known_QN: known positives of the queries, without their own.
        n_pairs: number of pairs left out.
    """

    own_Q: Tensor
    margin: float | None = None
    known_QN: Tensor | None = None
    n_pairs: Tensor | int = 0

    def __call__(self, scores_QN: Tensor) -> Tensor:
        """Return the scores with those of false negatives replaced."""
        left_out_QN = self.known_QN
        if self.margin is not None:
            fixed_QN = scores_QN.detach()
            high_QN = fixed_QN > fixed_QN.gather(1, self.own_Q[:, None]) + self.margin
            left_out_QN = high_QN if left_out_QN is None else left_out_QN | high_QN
        if left_out_QN is None:
            return scores_QN
        self.n_pairs = left_out_QN.sum()
        return scores_QN.masked_fill(left_out_QN, -torch.inf)
