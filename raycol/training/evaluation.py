"""Evaluation during training: each worker encodes a share of the passages, then all merge their runs.

The collection is stored as a flat BEIR folder that every worker reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.data import Dataset, Passage, read_corpus
from raycol.data.qrels import read_qrels, save_qrels
from raycol.data.queries import read_queries
from raycol.data.readers.jsonl import write_objects
from raycol.errors import InputError
from raycol.evaluation.metrics import DEPTH, score_run
from raycol.evaluation.runs import run_exact
from raycol.training.dataset import TrainingSet

if TYPE_CHECKING:
    # These take seconds to import, and the CLI imports this module to build its options.
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
    """Read a collection that `save_collection` wrote."""
    passages = list(read_corpus(folder / CORPUS))
    return Dataset(passages, read_queries(folder / QUERIES), read_qrels(folder / QRELS))


def held_out_rows(examples: TrainingSet, n: int, seed: int) -> NDArray[np.int64]:
    """Indices of all examples of `n` random queries, to hold out from training.

    Raises:
        InputError: the training set has `n` queries or fewer.
    """
    queries_N = examples.column("query")
    distinct = np.unique(queries_N)
    if n >= len(distinct):
        raise InputError(f"held_out is {n}, but there are only {len(distinct)} queries; hold out fewer")
    chosen = np.random.default_rng([seed, 2]).permutation(distinct)[:n]
    return np.flatnonzero(np.isin(queries_N, chosen))


def held_out_collection(examples: TrainingSet, rows: NDArray[np.int64]) -> Dataset:
    """Build a test collection from held-out examples: every query searches the documents of all of them.

    The positive is the document with the highest teacher score, or the first document if there are no scores.
    """
    documents: dict[int, None] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number in rows.tolist():
        query, ids, scores = examples.text_rows(number)
        positive = ids[int(np.argmax(scores))] if scores else ids[0]
        documents.update(dict.fromkeys(ids if scores else [positive]))
        queries[str(query)] = examples.text(query)
        qrels.setdefault(str(query), {})[str(positive)] = 1
    passages = [Passage(str(row), "", examples.text(row)) for row in documents]
    return Dataset(passages, queries, qrels)


def evaluate_on(encoder: MultiVectorEncoder, dataset: Dataset) -> dict[str, float]:
    """Evaluate an encoder by exact MaxSim, distributed over the workers of the process group, if there is one."""
    from raycol.training.group import rank_and_world_size

    was_training = encoder.training
    encoder.eval()
    try:
        rank, n_workers = rank_and_world_size()
        share = replace(dataset, passages=dataset.passages[rank::n_workers])
        run = run_exact(encoder, share) if share.passages else {}
        return score_run(dataset.qrels, _merged(run, dataset, encoder.device) if n_workers > 1 else run)
    finally:
        encoder.train(was_training)


def _merged(run: Run, dataset: Dataset, device: torch.device) -> Run:
    """Merge the workers' runs: gather the positions of each worker's hits and their scores."""
    import torch

    from raycol.training.group import all_gather

    position_of = {passage.id: position for position, passage in enumerate(dataset.passages)}
    positions_QN = torch.full((len(dataset.queries), DEPTH), -1, dtype=torch.int64)
    scores_QN = torch.zeros((len(dataset.queries), DEPTH), dtype=torch.float64)
    for row, query in enumerate(dataset.queries):
        hits = sorted(run.get(query, {}).items(), key=lambda hit: (-hit[1], hit[0]))[:DEPTH]
        positions_QN[row, : len(hits)] = torch.tensor([position_of[id_] for id_, _ in hits], dtype=torch.int64)
        scores_QN[row, : len(hits)] = torch.tensor([score for _, score in hits], dtype=torch.float64)
    merged: dict[str, dict[str, float]] = {query: {} for query in dataset.queries}
    all_positions, all_scores = all_gather(positions_QN.to(device)), all_gather(scores_QN.to(device))
    for positions, scores in zip(all_positions, all_scores, strict=True):
        for query, row, values in zip(dataset.queries, positions.tolist(), scores.tolist(), strict=True):
            merged[query].update(
                {
                    dataset.passages[position].id: score
                    for position, score in zip(row, values, strict=True)
                    if position >= 0
                }
            )
    return merged
