"""A shared endpoint on Ray Serve behind HAProxy, which takes half a minute to start.

One shard, so that its messages reach the maximum size; texts and ids of maximum length, and a few passages to search.
It has keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycol.core.validation import MAX_ID_BYTES
from raycol.index import Document, Index
from raycol.index.format.manifest import ModelInfo
from raycol.models.encoder import encoder_fingerprint, load_encoder
from raycol.serving.answer_limits import MAX_VALUE_BYTES
from raycol.serving.config import ServeConfig
from raycol.serving.keys import new_key
from raycol.serving.run import serving
from tests.conftest import make_passages, unit

DIM = 256
TEXT = "rain " * 600
# About as long as ids may be.
ID = "d{:05d}-" + "x" * (MAX_ID_BYTES - 10)
LARGE = MAX_VALUE_BYTES + 1
_DOCUMENTS = 20_000


@dataclass(frozen=True)
class OnServe:
    """URL of the endpoint, folder of its index and key file, and its keys by scope."""

    url: str
    folder: Path
    keys: dict[str, str]


@contextmanager
def large_endpoint(folder: Path, backbone: Path) -> Iterator[OnServe]:
    """Serve 20,000 documents of one random token, 2,000 of them with long texts, and 80 passages."""
    served = folder / "served"
    new = load_encoder(backbone, device="cpu", embedding_size=DIM, query_length=32, document_length=120)
    new.save_pretrained(str(folder / "model"))
    encoder = load_encoder(folder / "model", device="cpu")
    tokens = unit(np.random.default_rng(0).standard_normal((_DOCUMENTS, 1, DIM)))
    texts = [TEXT] * 2000 + [""] * (_DOCUMENTS - 2000)
    texts[7] = "rain " * (LARGE // 5 + 1)
    documents = [
        Document(ID.format(n), array, {"n": n, "title": "", "text": text})
        for n, (text, array) in enumerate(zip(texts, tokens, strict=True))
    ]
    passages = make_passages(80)
    arrays = encoder.encode_document([f"{passage['title']} {passage['text']}" for passage in passages])
    for n, (passage, array) in enumerate(zip(passages, arrays, strict=True), start=_DOCUMENTS):
        row = {"n": n, "title": passage["title"], "text": passage["text"]}
        documents.append(Document(passage["_id"], np.asarray(array), row))
    index = Index.create(
        served / "index",
        documents,
        n_centroids=64,
        model=ModelInfo(name=str(folder / "model"), fingerprint=encoder_fingerprint(encoder)),
    )
    file = served / "keys.json"
    keys = {scope: new_key(file, scope, scope) for scope in ("read", "admin")}
    with serving(ServeConfig(index=index.uri, port=0, keys=str(file), timeout_s=120)) as running:
        yield OnServe(running.url, served, keys)
