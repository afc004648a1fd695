"""`raycol demo`: train, index, serve and search on this machine, and measure the gain of each step."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raycol import display
from raycol.client.sync_client import search_endpoint
from raycol.core.escaping import echo
from raycol.core.progress import console, progress
from raycol.demo.config import DemoConfig
from raycol.demo.data import DemoData, gather, save
from raycol.distributed.session import ray_session
from raycol.errors import InputError, writing
from raycol.evaluation.metrics import score_run
from raycol.evaluation.runs import run_bm25, run_exact, run_index
from raycol.index import Index
from raycol.indexing import IndexConfig, build_index
from raycol.models.discovery import PACKAGED_BACKBONE, packaged_backbone
from raycol.models.encoder import load_encoder
from raycol.serving.config import ServeConfig
from raycol.serving.run import RunningEndpoint, serving, wait_for_interrupt
from raycol.storage import open_store
from raycol.training import TrainConfig, train

_MARKER = ".raycol-demo"
_WORKERS = 2
# Lengths and rate for short texts, a small model and few steps.
_ENCODER: dict[str, Any] = {"query_length": 32, "document_length": 96}
_LEARNING_RATE = 5e-5
# At a higher rate, 20 steps vary with the seed. A lower temperature weighs the hardest negatives more instead.
_TEMPERATURE = 0.5
_SAMPLE_DOCUMENTS = 500


def run_demo(config: DemoConfig) -> None:
    """Run the demo and print its results.

    Raises:
        InputError: `out` exists and no demo created it, or the BEIR folder is invalid.
    """
    started = time.monotonic()
    packaged_backbone()
    _check_out(config.out)
    with progress("Gathering text"):
        data = gather(config)
        _clear(config.out)
        save(data, config.out)
    console.print(f"{data.about}; {len(data.pairs)} training pairs, {len(data.dataset.queries)} held-out queries")
    for note in data.dataset.notes:
        console.print(note)
    rows = _measure_before(data)
    with ExitStack() as running:
        with progress("Starting Ray"):
            running.enter_context(ray_session(CPU=max(_WORKERS, config.shards + 2)))
        _train(config, data)
        index = _index(config, data)
        rows["after training, 4-bit index"] = _measure_after(config, index, data)
        with progress(f"Starting {config.shards} shards"):
            serve = ServeConfig(index=index.uri, shards=config.shards, port=config.port)
            endpoint = running.enter_context(serving(serve))
        _search(endpoint, data)
        display.comparison(
            rows, f"{len(data.dataset.queries)} held-out queries, {len(data.dataset.passages)} passages"
        )
        echo(f"total: {time.monotonic() - started:.0f} s; see {config.out}/: corpus, pairs.jsonl, model, index")
        echo(f"try: raycol search {config.out}/index 'your question'")
        if config.keep_serving:
            display.serving(endpoint)
            wait_for_interrupt()
        with progress("Stopping"):
            running.close()


def _check_out(out: Path) -> None:
    if out.exists() and not (out / _MARKER).is_file():
        raise InputError(f"{out}: exists and was not created by a demo; pass another folder with `out=`")
    open_store(out).check_writable()


def _clear(out: Path) -> None:
    """Create an empty folder for the demo; remove an earlier demo's."""
    with writing(out):
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        (out / _MARKER).touch()


def _measure_before(data: DemoData) -> dict[str, dict[str, float]]:
    with progress("BM25"):
        bm25 = score_run(data.dataset.qrels, run_bm25(data.dataset))
    with progress("MiniLM before training") as report:
        encoder = load_encoder(PACKAGED_BACKBONE, device="cpu", **_ENCODER)
        before = score_run(data.dataset.qrels, run_exact(encoder, data.dataset, report))
    return {"BM25": bm25, "before training, exact": before}


def _train(config: DemoConfig, data: DemoData) -> None:
    settings = TrainConfig(
        model=PACKAGED_BACKBONE,
        data=config.out / "pairs.jsonl",
        out=config.out / "model",
        num_workers=_WORKERS,
        batch_size=min(config.batch_size, len(data.pairs) // 2 * 2),
        max_steps=config.steps,
        learning_rate=_LEARNING_RATE,
        temperature=_TEMPERATURE,
        seed=config.seed,
        **_ENCODER,
    )
    with progress(f"Training on {_WORKERS} workers") as report:
        result = train(settings, report)
    console.print(result.loss_summary)


def _index(config: DemoConfig, data: DemoData) -> Index:
    documents = len(data.dataset.passages)
    settings = IndexConfig(
        corpus=config.out / "corpus",
        model=str(config.out / "model"),
        out=str(config.out / "index"),
        num_workers=_WORKERS,
        # At least 4 partitions per shard, even of a small corpus.
        docs_per_partition=max(1, documents // (4 * config.shards)),
        sample_documents=_SAMPLE_DOCUMENTS,
        seed=config.seed,
    )
    with progress("Indexing") as report:
        result = build_index(settings, report)
    console.print(f"{result.documents} documents, {result.tokens} tokens in {result.partitions} partitions")
    return Index.open(config.out / "index")


def _measure_after(config: DemoConfig, index: Index, data: DemoData) -> dict[str, float]:
    with progress("The index after training") as report:
        encoder = load_encoder(config.out / "model", device="cpu")
        return score_run(data.dataset.qrels, run_index(encoder, index, data.dataset, report))


def _search(endpoint: RunningEndpoint, data: DemoData) -> None:
    answer = search_endpoint(endpoint.url, data.questions, k=3)
    for question, hits in zip(data.questions, answer.results, strict=True):
        display.hits(question, hits)
        echo("")
    echo(f"{answer.shards.answered} of {answer.shards.total} shards answered at {endpoint.url}")
