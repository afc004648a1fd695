"""Evaluation during training: each worker encodes a share of the passages, then all merge their hits.

The collections are in the training's storage, which every worker reads: `0-corpus.jsonl`, `0-queries.jsonl` and
`0-qrels.tsv` of the first, and so on. Their corpora are read from there at each evaluation, one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ir_measures import Measure
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from raycol.core.progress import console
from raycol.data import Passage
from raycol.data.collection import Collection, CorpusSurvey
from raycol.data.collections import find_collections
from raycol.data.qrels import read_qrels, save_qrels
from raycol.data.readers.jsonl import write_objects
from raycol.data.readers.reader import CorpusFile
from raycol.errors import InputError
from raycol.evaluation.comparison import collection_weights
from raycol.evaluation.metrics import DEFAULT_METRICS, depth_of, parse_metrics, score_run
from raycol.evaluation.scoring import ModelScorer, score_passages
from raycol.evaluation.top_hits import Hits, TopHits
from raycol.training.config import TrainConfig
from raycol.training.dataset import TrainingSet
from raycol.training.example_table import random_keys
from raycol.training.metrics import metric_of
from raycol.training.setting_types import TrainingSource

if TYPE_CHECKING:
    # These take seconds to import, and the CLI imports this module to build its options.
    import torch
    from sentence_transformers import MultiVectorEncoder

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels.tsv"

# Splits for selecting a model, the usual ones first. Training has seen `train`; `test` is for the selected model.
_SELECTION_SPLITS = ("dev", "validation")
_OTHER_SPLITS = ("train", "test")


class EvaluationSet(BaseModel):
    """A stored test collection: its name, the split of its judgements if it has several, and its group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    split: str = ""
    group: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.split})" if self.split else self.name


def selection_split(location: str, splits: Sequence[str]) -> str | None:
    """Choose the split that selects the best model: dev, validation, or the only one besides train and test.

    Raises:
        InputError: there is none, or there are several.
    """
    splits = sorted(splits)
    others = [name for name in splits if name not in _OTHER_SPLITS]
    found = next((name for name in _SELECTION_SPLITS if name in others), others[0] if len(others) == 1 else None)
    if found is None and others:
        raise InputError(f"{location}: choose a split to select a model by, with `eval_split=`: {', '.join(splits)}")
    if found is None and splits:
        raise InputError(
            f"{location}: has no split to select a model by, only {' and '.join(splits)}; hold out training queries "
            "with `held_out=`, or choose `eval_split='test'`, whose metrics then no longer say how the model does on "
            "unseen queries"
        )
    return found


def eval_metrics(config: TrainConfig) -> dict[str, Measure]:
    """Metrics of an evaluation by name, the deciding one first."""
    return parse_metrics([config.eval_metric, *DEFAULT_METRICS])


def store_collections(config: TrainConfig, folder: Path) -> tuple[EvaluationSet, ...]:
    """Write the collections of `eval_data` to a folder, and print what their metrics are subject to.

    Raises:
        InputError: there is no such collection or split, a name occurs twice, or a collection is unusable.
    """
    references = [
        reference
        for name in config.eval_data or ()
        for reference in find_collections(name, config.eval_split, selection_split)
    ]
    names = [reference.name for reference in references]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"eval_data: there are two collections {repeated!r}; name each once")
    sets = []
    for number, reference in enumerate(references):
        collection = reference.open()
        for note in save_collection(folder, number, collection, collection.passages(config.on_error)):
            console.print(f"eval_data: {note}")
        sets.append(EvaluationSet(name=collection.name, split=collection.split, group=collection.group))
    return tuple(sets)


def save_collection(folder: Path, number: int, collection: Collection, passages: Iterable[Passage]) -> list[str]:
    """Write a test collection with these passages; return notes on its metrics.

    Raises:
        InputError: a passage is unusable, or none of the judged documents is among them.
    """
    survey = CorpusSurvey(collection)

    def records() -> Iterator[dict[str, str]]:
        for passage in passages:
            survey.add(passage)
            yield {"_id": passage.id, "title": passage.title, "text": passage.text}

    write_objects(_path(folder, number, CORPUS), records())
    queries = (
        {"_id": id_, "text": text, "excluded": sorted({*collection.excluded.get(id_, ()), *({id_} & survey.copies)})}
        for id_, text in collection.queries.items()
    )
    write_objects(_path(folder, number, QUERIES), queries)
    save_qrels(_path(folder, number, QRELS), collection.qrels)
    return [*collection.notes, *survey.notes()]


def open_collections(folder: Path, sets: Sequence[EvaluationSet]) -> list[Collection]:
    """Open the collections that `save_collection` wrote."""
    collections = []
    for number, each in enumerate(sets):
        corpus = CorpusFile(str(_path(folder, number, CORPUS)), "jsonl")
        queries = [json.loads(line) for line in _path(folder, number, QUERIES).read_bytes().splitlines()]
        collections.append(
            Collection(
                location=str(each),
                corpus_files=(corpus,),
                queries={query["_id"]: query["text"] for query in queries},
                qrels=read_qrels(_path(folder, number, QRELS)),
                excluded={query["_id"]: frozenset(query["excluded"]) for query in queries},
                name=str(each),
                group=each.group,
                split=each.split,
            )
        )
    return collections


def _path(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number}-{name}"


def held_out_queries(examples: TrainingSet, n: int, seed: int) -> NDArray[np.int64]:
    """Ids of `n` random queries, to hold out from training with all of their examples.

    Raises:
        InputError: the training set has `n` queries or fewer.
    """
    salt = np.random.default_rng([seed, 2]).integers(1 << 62)
    chosen = np.empty(0, np.int64)
    for ids in examples.query_ids():
        # Those whose hash is lowest: of each shard, so that not all ids are in memory.
        chosen = np.unique(np.concatenate([chosen, ids]))
        chosen = chosen[np.argsort(random_keys(chosen ^ salt))[: n + 1]]
    if len(chosen) <= n:
        raise InputError(f"held_out is {n}, but there are only {len(chosen)} queries; hold out fewer")
    return chosen[:n]


def store_held_out(
    folder: Path, sources: Sequence[TrainingSource], examples: TrainingSet, held_out: NDArray[np.int64]
) -> EvaluationSet:
    """Write a test collection of held-out examples to a folder: every query searches the documents of all of them.

    The positive is the document with the highest teacher score, or the first document if there are no scores. Texts
    have the prompts of their source.
    """
    documents: dict[int, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for index, stored_shard in enumerate(examples.shards):
        shard, source = examples.shard(index), sources[stored_shard.source]
        for number in shard.numbers_N[np.isin(shard.queries_N, held_out)].tolist():
            row = examples[number]
            best = int(np.argmax(row.scores)) if row.scores else 0
            texts = dict(zip(row.document_ids, row.documents, strict=True))
            texts = texts if row.scores else {row.document_ids[best]: row.documents[best]}
            documents |= {id_: (source.document_prompt or "") + text for id_, text in texts.items()}
            queries[str(row.query_id)] = (source.query_prompt or "") + row.query
            qrels.setdefault(str(row.query_id), {})[str(row.document_ids[best])] = 1
    stored = EvaluationSet(name=f"{len(held_out)} held-out queries of the training data")
    passages = (Passage(str(id_), "", text) for id_, text in documents.items())
    save_collection(folder, 0, Collection(stored.name, (), queries, qrels), passages)
    return stored


def evaluate_on(
    encoder: MultiVectorEncoder,
    collections: Sequence[Collection],
    metrics: Mapping[str, Measure] = DEFAULT_METRICS,
    pool_factor: float = 1.0,
) -> dict[str, float]:
    """Evaluate an encoder by exact MaxSim, distributed over the workers of the process group, if there is one.

    The tokens of documents are pooled as in an index with this `pool_factor`.

    Returns:
        The average of each metric over the collections, in which a group counts as one; then, if there are several,
        the metrics of each, by `metric_of`.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        values = {each.name: _scores(encoder, each, metrics, pool_factor) for each in collections}
    finally:
        encoder.train(was_training)
    if len(values) == 1:
        return next(iter(values.values()))
    weights = collection_weights(values, {each.name: each.group for each in collections})
    averages = {
        metric: sum(weight * values[name][metric] for name, weight in zip(sorted(values), weights, strict=True))
        for metric in metrics
    }
    return averages | {metric_of(metric, name): each[metric] for name, each in values.items() for metric in metrics}


def _scores(
    encoder: MultiVectorEncoder, collection: Collection, metrics: Mapping[str, Measure], pool_factor: float
) -> dict[str, float]:
    """The metrics of an encoder on a collection."""
    from raycol.training.group import rank_and_world_size

    rank, n_workers = rank_and_world_size()
    ids: list[str] = []

    def share() -> Iterator[Passage]:
        for position, passage in enumerate(collection.passages()):
            ids.append(passage.id)
            if position % n_workers == rank:
                yield passage

    # Excluded documents are dropped afterwards, so there must be as many hits more.
    depth = depth_of(metrics) + max(map(len, collection.excluded.values()), default=0)
    scorer = ModelScorer(encoder, list(collection.queries.values()), pool_factor)
    hits = score_passages(scorer, share(), depth, lambda _: None) or [[] for _ in collection.queries]
    if n_workers > 1:
        hits = _merged(hits, ids, depth, encoder.device)
    run = {
        query_id: {id_: score for id_, score in found if id_ not in collection.excluded[query_id]}
        for query_id, found in zip(collection.queries, hits, strict=True)
    }
    return score_run(collection.qrels, run, metrics)


def _merged(hits: list[Hits], ids: Sequence[str], depth: int, device: torch.device) -> list[Hits]:
    """Merge the workers' hits: gather the positions of each worker's hits and their scores."""
    import torch

    from raycol.training.group import all_gather

    position_of = {id_: position for position, id_ in enumerate(ids)}
    positions_QN = torch.full((len(hits), depth), -1, dtype=torch.int64)
    scores_QN = torch.zeros((len(hits), depth), dtype=torch.float64)
    for row, found in enumerate(hits):
        positions_QN[row, : len(found)] = torch.tensor([position_of[id_] for id_, _ in found], dtype=torch.int64)
        scores_QN[row, : len(found)] = torch.tensor([score for _, score in found], dtype=torch.float64)
    top = TopHits(len(hits), depth)
    all_positions, all_scores = all_gather(positions_QN.to(device)), all_gather(scores_QN.to(device))
    for positions, scores in zip(all_positions, all_scores, strict=True):
        rows, columns = torch.nonzero(positions >= 0, as_tuple=True)
        merged_ids = [ids[position] for position in positions[rows, columns].tolist()]
        top.merge(rows.tolist(), merged_ids, scores[rows, columns].tolist())
    return top.result()
