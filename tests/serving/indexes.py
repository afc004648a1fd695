"""Indexes to serve, built in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycol.index import Document, Index
from raycol.index.format.manifest import ModelInfo
from raycol.models.encoder import encoder_fingerprint, load_encoder


def index_of_texts(
    out: Path, model: Path, passages: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None
) -> Index:
    """An index of passages with `_id`, `title`, `text` and other columns, in five partitions."""
    encoder = load_encoder(model, device="cpu")
    texts = [f"{passage['title']} {passage['text']}" for passage in passages]
    arrays = encoder.encode_document(texts, convert_to_numpy=True)
    rows = [{name: value for name, value in passage.items() if name != "_id"} for passage in passages]
    return Index.create(
        out,
        [Document(passage["_id"], *kept) for passage, *kept in zip(passages, arrays, rows, strict=True)],
        partition_tokens=sum(map(len, arrays)) // 5 + 1,
        columns=columns,
        model=ModelInfo(name=str(model), fingerprint=encoder_fingerprint(encoder)),
    )
