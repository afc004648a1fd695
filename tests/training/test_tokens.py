"""Token ids in training equal those of encoding, and losses equal PyLate's."""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Transformer

from raycol.models.encoder import load_encoder
from raycol.models.saving import save_encoder
from raycol.serving.encoder import QueryEncoder
from raycol.training import TrainConfig
from raycol.training.dataset import TrainingSet
from raycol.training.example_dataset import to_columns
from raycol.training.prepare import make_plan, prepare
from tests.conftest import write_jsonl
from tests.indexing.in_process import build_index
from tests.mining.in_process import mine_negatives
from tests.training.material import fit_in_process, losses, settings, write_examples

QUERIES = ["rain and wind", "bread?", "a violin, a piano and a choir in the storm tonight"]
DOCUMENTS = ["The storm: rain, wind and fog.", "Bread is made in an oven.", " ".join(["melody (song)"] * 40)]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[int, ...]]]:
    """Token ids of all texts that the transformer encodes, by task; of documents without padding.

    In training mode the keys are "training query" and "training document".
    """
    ids_by_task: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    forward = Transformer.forward

    def note(self: Transformer, features: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        is_query = features["input_ids"].shape[1] == self.query_expansion["length"]
        task = ("training " if self.training else "") + ("query" if is_query else "document")
        for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            kept = ids if is_query else ids[mask.bool()]
            ids_by_task[task].add(tuple(kept.tolist()))
        return forward(self, features, *arguments, **named)

    monkeypatch.setattr(Transformer, "forward", note)
    return ids_by_task


@pytest.mark.parametrize(
    "prefixes", [{}, {"query_prefix": "query: ", "document_prefix": ""}], ids=["markers", "words"]
)
@pytest.mark.slow
def test_training_mining_indexing_and_serving_use_the_same_token_ids(
    tiny_backbone: Path, tmp_path: Path, seen: dict[str, set[tuple[int, ...]]], prefixes: dict[str, str]
) -> None:
    from raycol.indexing import IndexConfig
    from raycol.mining import MineConfig

    model = tmp_path / "model"
    lengths = {"embedding_size": 16, "query_length": 10, "document_length": 24}
    load_encoder(tiny_backbone, device="cpu", query_expansion=True, **lengths, **prefixes).save_pretrained(str(model))
    pairs = [{"query": query, "positive": text} for query, text in zip(QUERIES, DOCUMENTS, strict=True)]
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": str(n), "text": DOCUMENTS[n]} for n in range(3)])
    by_path: dict[str, dict[str, set[tuple[int, ...]]]] = {}

    def end(path: str) -> None:
        by_path[path] = dict(seen)
        seen.clear()

    fit_in_process(settings(model, data, tmp_path / "x", batch_size=3, max_steps=1), tmp_path / "w")
    end("training")  # the Trainer encodes texts of its own for its model card
    build_index(IndexConfig(model=str(model), corpus=str(corpus), out=tmp_path / "index"))
    end("indexing")
    mine_negatives(MineConfig(index=tmp_path / "index", data=str(data), out=tmp_path / "mined", short="keep"))
    end("mining")
    serving = QueryEncoder(str(model), None)
    seen.clear()
    asyncio.run(serving.embed(QUERIES, True))
    asyncio.run(serving.embed(DOCUMENTS, False))
    end("serving")
    assert len(by_path["serving"]["query"]) == len(by_path["serving"]["document"]) == 3
    assert by_path["training"]["training query"] == by_path["serving"]["query"]
    assert by_path["training"]["training document"] == by_path["serving"]["document"]
    # Indexing and mining also encode the texts of `probe_encoder`.
    assert by_path["indexing"]["document"] >= by_path["serving"]["document"]
    assert by_path["mining"]["query"] >= by_path["serving"]["query"]
    tokenizer = load_encoder(model, device="cpu").tokenizer
    for task, marker in (("query", "[Q]"), ("document", "[D]")):
        marked = [tokenizer.convert_ids_to_tokens(ids[1]) == marker for ids in by_path["training"][f"training {task}"]]
        assert marked == [not prefixes] * 3


def with_fixed_weights(encoder: Any, seed: int = 0) -> Any:
    """Set an encoder's weights independently of any library's initialisation."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in sorted(encoder.state_dict().items()):
            if tensor.is_floating_point():
                drawn = torch.from_numpy(rng.normal(size=tensor.shape)).to(tensor.dtype)
                tensor.copy_(1 + 0.1 * drawn if "LayerNorm.weight" in name else 0.1 * drawn)
    return encoder


def prepared(backbone: Path, folder: Path, objective: str) -> tuple[TrainConfig, list[list[dict[str, Any]]]]:
    """Settings of twenty steps, and their batches as input of `benchmarks/peers/pylate_losses.py`."""
    encoder = with_fixed_weights(
        load_encoder(backbone, device="cpu", embedding_size=16, query_length=8, document_length=16)
    )
    save_encoder(encoder, folder / "model")
    distils = objective == "distillation"
    data = write_examples(folder / "data.jsonl", 40, negatives=2, scores=distils)
    config = settings(
        folder / "model",
        data,
        folder / "x",
        objective=objective,
        normalize_scores=distils,
        learning_rate=3e-4,
        schedule="constant",
        warmup=0.0,
        max_grad_norm=1e9,
        max_steps=20,
    )
    (folder / "set").mkdir()
    work = prepare(config, folder / "set", folder)
    examples = TrainingSet(folder / "set")
    plan = make_plan(config, work.sources, examples)
    return config, [[to_columns(examples[row]) for row in batch] for batch in plan.batches(20)]


_CONTRASTIVE = [
    3.014752, 3.147566, 3.071603, 3.146098, 3.093857, 3.077389, 2.952462, 3.047074, 3.078709, 2.914484,
    2.906978, 3.019264, 2.956321, 2.985852, 2.880913, 3.036764, 2.821805, 2.858261, 2.833109, 2.812640,
]  # fmt: skip
# Output of benchmarks/peers/pylate_losses.py for `prepared`, with PyLate 1.6.0 and sentence-transformers 5.3.0.
PYLATE = {
    "contrastive": _CONTRASTIVE,
    "cached": _CONTRASTIVE,
    "distillation": [
        0.238062, 0.296276, 0.292528, 0.337791, 0.315758, 0.191516, 0.298072, 0.259846, 0.231076, 0.279571,
        0.172919, 0.266847, 0.207112, 0.274568, 0.213959, 0.149358, 0.163373, 0.374728, 0.215479, 0.124971,
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("objective", PYLATE)
def test_the_losses_of_twenty_steps_equal_pylates(tiny_backbone: Path, tmp_path: Path, objective: str) -> None:
    config, _ = prepared(tiny_backbone, tmp_path, objective)
    encoder, history = fit_in_process(config, tmp_path / "work")
    assert losses(history) == pytest.approx(PYLATE[objective], rel=5e-5)
    assert losses(history)[:1] == pytest.approx(PYLATE[objective][:1], rel=1e-6)
    # The markers' embeddings are trained too.
    before = load_encoder(config.model, device="cpu")
    ids = before.tokenizer.convert_tokens_to_ids(["[Q]", "[D]"])
    moved = [one[0].auto_model.get_input_embeddings().weight[ids] for one in (before, encoder)]
    assert (moved[1] - moved[0]).abs().amax(dim=1).min() > 1e-4
