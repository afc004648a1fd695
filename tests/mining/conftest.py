"""Fixtures: a tiny cross-encoder, and a small index with its BEIR folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from raycol.data.beir import save_beir
from raycol.data.collection import Dataset
from raycol.data.corpus import Passage
from raycol.index import Document, Index
from raycol.index.format.manifest import ModelInfo
from tests.conftest import TOPICS, make_passages
from tests.mining.in_process import COMPUTED_PARTS

DOCUMENTS, QUERIES = 80, 30


def save_cross_encoder(backbone: Path, folder: Path, seed: int = 0, num_labels: int = 1) -> Path:
    """Save a cross-encoder of two layers with random weights, whose logits are far apart."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(backbone, num_labels=num_labels, initializer_range=0.6)
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tiny_backbone, tmp_path_factory.mktemp("tiny-cross-encoder"))


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages on four topics; each query has words of one topic and one to three passages of it."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("mining") / "beir"
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(DOCUMENTS)]
    queries, qrels = {}, {}
    for number in range(QUERIES):
        topic = sorted(TOPICS)[number % len(TOPICS)]
        queries[f"q{number}"] = " ".join(rng.choice(TOPICS[topic].split(), 3)) + f" {number}"
        answers = rng.choice([passage.id for passage in passages if passage.title == topic], 1 + number % 3, False)
        qrels[f"q{number}"] = {str(id_): 1 for id_ in answers}
    save_beir(folder, Dataset(passages, queries, qrels), "train")
    return folder


def make_index(out: Path, passages: list[Passage], model: Path, with_text: bool = True) -> Index:
    from raycol.models.encoder import encoder_fingerprint, load_encoder

    encoder = load_encoder(model, device="cpu")
    embeddings = encoder.encode_document(
        [passage.content for passage in passages], convert_to_numpy=True, show_progress_bar=False
    )
    return Index.create(
        out,
        [
            Document(passage.id, tokens, {"title": passage.title, "text": passage.text} if with_text else {})
            for passage, tokens in zip(passages, embeddings, strict=True)
        ],
        n_centroids=32,
        model=ModelInfo(name=str(model), fingerprint=encoder_fingerprint(encoder)),
    )


def passages_of(folder: Path) -> list[Passage]:
    records = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    return [Passage(record["_id"], record["title"], record["text"]) for record in records]


@pytest.fixture(scope="session")
def index(beir: Path, tiny_colbert: Path) -> Path:
    """An index of the BEIR folder's passages, with their texts."""
    make_index(beir.parent / "index", passages_of(beir), tiny_colbert)
    return beir.parent / "index"


@pytest.fixture
def computed_parts() -> list[int]:
    """The numbers of the parts computed so far in the test."""
    COMPUTED_PARTS.clear()
    return COMPUTED_PARTS


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files except the report, which holds run times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-report.json")}
