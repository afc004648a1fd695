"""Evaluating in the midst of training: each worker encodes its share of the passages, and all merge what they found.

The collection lies in the store as a BEIR folder laid flat, so that every worker reads the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.data import Dataset, Passage, read_corpus
from raycol.data.beir import read_qrels, read_queries, save_qrels
from raycol.data.readers.jsonl import write_objects
from raycol.errors import InputError
from raycol.evaluation.metrics import DEPTH, score_run
from raycol.evaluation.runs import run_exact
from raycol.training.dataset import TrainingSet

if TYPE_CHECKING:
    # They take seconds to load, and the command line reads this module to know what it may be asked.
    import torch
    from sentence_transformers import MultiVectorEncoder

METRIC = "nDCG@10"

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels.tsv"

Run = Mapping[str, Mapping[str, float]]


def save_collection(folder: Path, dataset: Dataset) -> None:
    """Write a test collection."""
    passages = ({"_id": one.id, "title": one.title, "text": one.text} for one in dataset.passages)
    write_objects(folder / CORPUS, passages)
    write_objects(folder / QUERIES, ({"_id": id_, "text": text} for id_, text in dataset.queries.items()))
    save_qrels(folder / QRELS, dataset.qrels)


def open_collection(folder: Path) -> Dataset:
    """Read it again."""
    passages = list(read_corpus(folder / CORPUS))
    return Dataset(passages, read_queries(folder / QUERIES), read_qrels(folder / QRELS))


def held_out_rows(examples: TrainingSet, n: int, seed: int) -> NDArray[np.int64]:
    """Numbers of all examples of `n` queries that are kept out of training.

    Raises:
        InputError: there are no more queries than that.
    """
    queries_N = examples.column("query")
    distinct = np.unique(queries_N)
    if n >= len(distinct):
        raise InputError(f"held_out is {n} and there are {len(distinct)} queries; expected fewer")
    chosen = np.random.default_rng([seed, 2]).permutation(distinct)[:n]
    return np.flatnonzero(np.isin(queries_N, chosen))


def held_out_collection(examples: TrainingSet, rows: NDArray[np.int64]) -> Dataset:
    """Examples as a test collection: each query looks for its positives among the documents of all.

    A query's positive is the document that its teacher scores highest, or else the first one.
    """
    documents: dict[int, None] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number in rows.tolist():
        query, ids, scores = examples.places(number)
        positive = ids[int(np.argmax(scores))] if scores else ids[0]
        documents.update(dict.fromkeys(ids if scores else [positive]))
        queries[str(query)] = examples.text(query)
        qrels.setdefault(str(query), {})[str(positive)] = 1
    passages = [Passage(str(place), "", examples.text(place)) for place in documents]
    return Dataset(passages, queries, qrels)


def evaluate_on(encoder: MultiVectorEncoder, dataset: Dataset) -> dict[str, float]:
    """Metrics of an encoder by exact MaxSim, over the workers of the process group, where there is one."""
    from raycol.training.group import place_in_group

    was_training = encoder.training
    encoder.eval()
    try:
        rank, n_workers = place_in_group()
        share = replace(dataset, passages=dataset.passages[rank::n_workers])
        run = run_exact(encoder, share) if share.passages else {}
        return score_run(dataset.qrels, _merged(run, dataset, encoder.device) if n_workers > 1 else run)
    finally:
        encoder.train(was_training)


def _merged(run: Run, dataset: Dataset, device: torch.device) -> Run:
    """All workers' runs in one: each sends the positions of its passages and their scores."""
    import torch

    from raycol.training.group import of_all

    place = {passage.id: position for position, passage in enumerate(dataset.passages)}
    positions_QN = torch.full((len(dataset.queries), DEPTH), -1, dtype=torch.int64)
    scores_QN = torch.zeros((len(dataset.queries), DEPTH), dtype=torch.float64)
    for row, query in enumerate(dataset.queries):
        hits = sorted(run.get(query, {}).items(), key=lambda hit: (-hit[1], hit[0]))[:DEPTH]
        positions_QN[row, : len(hits)] = torch.tensor([place[id_] for id_, _ in hits], dtype=torch.int64)
        scores_QN[row, : len(hits)] = torch.tensor([score for _, score in hits], dtype=torch.float64)
    merged: dict[str, dict[str, float]] = {query: {} for query in dataset.queries}
    all_positions, all_scores = of_all(positions_QN.to(device)), of_all(scores_QN.to(device))
    for positions, scores in zip(all_positions, all_scores, strict=True):
        for query, row, values in zip(dataset.queries, positions.tolist(), scores.tolist(), strict=True):
            hits_ = zip(row, values, strict=True)
            merged[query].update({dataset.passages[at].id: score for at, score in hits_ if at >= 0})
    return merged
