"""Synthetic training examples, and helpers to train without Ray."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from raycol.data import Dataset, Passage
from raycol.data.beir import save_beir
from raycol.training import TrainConfig
from raycol.training.loss import LossBatch
from tests.conftest import TOPICS, make_passages, write_jsonl


@dataclass(frozen=True)
class Hinge:
    """The mean, over all documents of a batch, by how much each is within a margin of the positive's score."""

    margin: float = 0.5
    needs_scores: bool = False

    @property
    def fingerprint(self) -> str:
        return f"hinge, margin {self.margin}"

    def __call__(self, batch: LossBatch):
        scores_QN = batch.scores()
        positive_Q1 = scores_QN.gather(1, batch.positives_Q[:, None])
        return (self.margin - positive_Q1 + scores_QN).relu().mean()


@dataclass(frozen=True)
class SquaredError:
    """Squared difference of MaxSim, from the embeddings, and the teacher's scores."""

    fingerprint: str = "squared error"
    needs_scores: bool = True

    def __call__(self, batch: LossBatch):
        scores_QWST = batch.queries_QSD[:, None] @ batch.documents_GWTD.transpose(2, 3)
        best_QWS = scores_QWST.masked_fill(~batch.documents_mask_GWT[:, :, None], -9).max(dim=-1).values
        scores_QW = (best_QWS * batch.queries_mask_QS[:, None]).sum(dim=-1)
        return ((scores_QW - batch.teacher_QW) ** 2).mean()


def write_examples(path: Path, n: int = 32, negatives: int = 0, scores: bool = False, seed: int = 0) -> Path:
    """Write queries of 3 words and passages of 4 to 8 words on four topics; negatives are from other topics."""
    rng = np.random.default_rng(seed)
    topics = [text.split() for text in TOPICS.values()]
    records = []
    for number in range(n):
        words = topics[number % 4]
        texts = [" ".join(rng.choice(words, rng.integers(4, 9)))]
        texts += [" ".join(rng.choice(topics[(number + k) % 4], rng.integers(4, 9))) for k in range(1, negatives + 1)]
        record: dict = {"query": f"{' '.join(rng.choice(words, 3))} {number % 10}{number // 10 % 10}{number // 100}"}
        if scores:
            record |= {"documents": texts, "scores": rng.normal(size=len(texts)).round(3).tolist()}
        else:
            record |= {"positive": texts[0], "negatives": texts[1:]} if negatives else {"positive": texts[0]}
        records.append(record)
    return write_jsonl(path, records)


def save_collection(folder: Path, *splits: str, first: int = 0) -> Path:
    """A BEIR folder of 24 passages and 12 queries, judged in each of the splits."""
    passages = [Passage(each["_id"], each["title"], each["text"]) for each in make_passages(24)]
    rng = np.random.default_rng(first)
    chosen = passages[first : first + 12]
    queries = {f"q{n}": " ".join(rng.choice(TOPICS[each.title].split(), 2)) for n, each in enumerate(chosen)}
    qrels = {f"q{n}": {each.id: 1} for n, each in enumerate(chosen)}
    for split in splits:
        save_beir(folder, Dataset(passages, queries, qrels), split)
    return folder


def save_albert(backbone: Path, folder: Path) -> Path:
    """Save a tiny ALBERT with random weights, including a pooler that no embedding depends on."""
    import torch
    from transformers import AlbertConfig, AlbertModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    torch.manual_seed(0)
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=16, hidden_size=32, num_hidden_layers=2,
                          num_attention_heads=2, intermediate_size=64, max_position_embeddings=192)  # fmt: skip
    AlbertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, data: Path | dict | list, out: Path, **values) -> TrainConfig:
    defaults = {"batch_size": 8, "mini_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "seed": 1,
                "allow_duplicates": True}  # fmt: skip
    if "mini_batch_tokens" in values:
        del defaults["mini_batch_size"]
    return TrainConfig(
        model=str(model), data=str(data) if isinstance(data, Path) else data, out=out, **{**defaults, **values}
    )


def fit_in_process(config: TrainConfig, workspace: Path, store=None, on_record: Callable = lambda record: None):
    """Prepare and train in this process, without Ray; return the encoder and the log history."""
    from raycol.training.prepare import prepare
    from raycol.training.worker import fit

    data, collection = workspace / "data", workspace / "collection"
    if not data.exists():
        data.mkdir(parents=True)
        collection.mkdir()
        work = prepare(config, data, collection)
        (workspace / "work.json").write_text(work.model_dump_json())
    from raycol.training.prepare import TrainingTask

    work = TrainingTask.model_validate_json((workspace / "work.json").read_bytes())
    return fit(config, work, data, collection if config.evaluates else None, workspace / "own", store, on_record)


def weights(encoder) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in encoder.parameters()])


def losses(history: list[dict[str, float]]) -> list[float]:
    return [entry["loss"] for entry in history if "loss" in entry]


def gradient(config: TrainConfig, folder: Path) -> np.ndarray:
    """The first step's gradient before clipping, followed by the losses; in this process or a process group."""
    from raycol.training.trainer import Trainer

    gradients = []
    get_grad_norm = Trainer._get_grad_norm

    def record_gradient(self, model, grad_norm=None):
        if not gradients:
            gradients.append(
                np.concatenate([p.grad.numpy().ravel() for p in self.model.parameters() if p.grad is not None])
            )
        return get_grad_norm(self, model, grad_norm)

    Trainer._get_grad_norm = record_gradient
    try:
        _, history = fit_in_process(config.model_copy(update={"max_grad_norm": 1e9}), folder)
    finally:
        Trainer._get_grad_norm = get_grad_norm
    return np.concatenate([*gradients, losses(history)])


def run_in_group(rank: int, n: int, rendezvous: str, run: Callable[[], None], threads: int = 1) -> None:
    """Call `run` as one process of a group of `n` on this machine."""
    import torch
    from torch import distributed

    torch.set_num_threads(threads)
    # Without it accelerate sets another number of threads.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=n)
    try:
        run()
    finally:
        distributed.destroy_process_group()


@functools.cache
def _forked() -> multiprocessing.context.BaseContext:
    """A fork-server context whose server has imported the training modules."""
    context = multiprocessing.get_context("forkserver")
    # A running server would ignore the preload list.
    forkserver._forkserver._stop()
    context.set_forkserver_preload(["tests.training.preloaded"])
    return context


def start_group(work: Sequence[Callable[[], None]], rendezvous: Path, threads: int = 1) -> list[BaseProcess]:
    """Start a process group on this machine, one process per function; they meet at the file `rendezvous`."""
    n = len(work)
    context = _forked()
    group = [
        context.Process(target=run_in_group, args=(rank, n, str(rendezvous), work[rank], threads)) for rank in range(n)
    ]
    for process in group:
        process.start()
    return group


def end_group(group: Iterable[BaseProcess]) -> None:
    """Wait for the processes of a group and check that all succeeded."""
    for process in group:
        process.join(300)
        assert process.exitcode == 0


# Query and documents of eight examples, as ids of texts. Several share a query or a positive: 0 is a positive of
# queries 10 and 13, and one of them is another example's negative.
REPEATED = [(10 + n % 6, [n % 5, 5 + n % 3, 8 + n % 2]) for n in range(7)] + [(11, [3, 0, 9])]


def repeated_text(number: int) -> str:
    words = [word for text in TOPICS.values() for word in text.split()]
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(words, 2 + number % 7)) + "."


def known_positives(query: int) -> list[int]:
    return sorted({documents[0] for other, documents in REPEATED if other == query})


def repeated_features(encoder, part: slice = slice(None), with_ids: bool = True, guide=None) -> list[dict]:
    """Features of some of `REPEATED`, as the Trainer's collator makes them."""
    from raycol.models.tokenization import tokenize
    from raycol.training.positives import KnownPositives, collate_ids

    queries, documents = zip(*REPEATED[part], strict=True)
    columns = [("query", queries), *(("document", ids) for ids in zip(*documents, strict=True))]
    texts = [(list(map(repeated_text, ids)), task) for task, ids in columns]
    features = [{**tokenize(encoder, *one), **(guide.tokenize(*one) if guide else {})} for one in texts]
    if with_ids:
        queries_N, positives_N = (np.array(ids) for ids in zip(*((q, one[0]) for q, one in REPEATED), strict=True))
        known = KnownPositives(queries_N, positives_N, symmetric=True)
        rows = [known.columns(query, ids) for query, ids in REPEATED[part]]
        for name in rows[0]:
            column, _, feature = name.removeprefix("document_").partition("_")
            number = 0 if column == "query" else int(column)
            features[number][feature] = collate_ids([row[name] for row in rows])
    return features
