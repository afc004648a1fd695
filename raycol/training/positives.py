"""Known positives of queries, which are no negatives in a batch."""

from __future__ import annotations

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


def positives_among(positive_ids_QP: Tensor, ids_A: Tensor, own_Q: Tensor) -> Tensor:
    """Return which documents are known positives of a query, besides the one it is trained on [Q, A].

    Args:
        positive_ids_QP: ids of the queries' known positives, padded with -1.
        ids_A: ids of the documents, none negative; the same id means the same text.
        own_Q: position of each query's own positive among them.
    """
    occurs_QP = torch.isin(positive_ids_QP, ids_A)
    # Few of a query's positives occur in a batch: only their columns are compared.
    first_QP = torch.sort(occurs_QP.int(), dim=1, descending=True).indices[:, : int(occurs_QP.sum(dim=1).max())]
    found_QA = torch.zeros(len(own_Q), len(ids_A), dtype=torch.bool, device=ids_A.device)
    for column_Q in positive_ids_QP.gather(1, first_QP).unbind(dim=1):
        found_QA |= column_Q[:, None] == ids_A
    return found_QA.scatter_(1, own_Q[:, None], value=False)
