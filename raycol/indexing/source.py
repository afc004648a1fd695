"""The source of a build's embeddings: an encoder, or the corpus itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from raycol.errors import InputError
from raycol.index.format.manifest import ModelInfo, SplitInfo
from raycol.indexing.encode import document_length
from raycol.indexing.part import check_tokens
from raycol.indexing.plan import BuildPlan, read_part

# Documents per part from which the mean number of tokens is estimated.
_SAMPLE_SIZE = 64


@dataclass(frozen=True)
class SourceInfo:
    """Encoder (None if documents come encoded), dimension, and approximate tokens per document."""

    model: ModelInfo | None
    dim: int
    mean_tokens: float


def open_source(
    plan: BuildPlan, model: str | None, split: SplitInfo | None, embedding_size: int | None = None
) -> SourceInfo:
    """Open the encoder, or sample the corpus's embeddings.

    Raises:
        InputError: no usable model, `embedding_size` or embeddings, or `split` exceeds the model's document length.
    """
    if model is None:
        return open_encoded(plan, "to encode texts, name a model with `model=`")
    # Importing torch is slow, so the rest of the input is checked first.
    from raycol.models.encoder import encoder_fingerprint, load_encoder, probe_encoder

    encoder = load_encoder(model, device="cpu", embedding_size=embedding_size)
    probe_encoder(encoder, model)
    if split and not encoder.tokenizer.is_fast:
        raise InputError(
            f"model {model!r}: splitting needs token offsets, which its slow tokenizer does not have; leave "
            "`split_tokens=` out, or save the model with a fast tokenizer"
        )
    limit = document_length(encoder)
    if split and split.tokens > limit:
        raise InputError(
            f"split_tokens is {split.tokens}; expected at most {limit}, the document length of {model!r} with title, "
            "prompt and special tokens"
        )
    texts = [passage.content for _, passage in islice(read_part(plan.parts[0], plan.fields), _SAMPLE_SIZE)]
    tokens = sum(map(len, encoder.tokenizer(texts, truncation=False, verbose=False)["input_ids"]))
    max_tokens = float("inf") if split else limit
    mean = plan.mean_tokens(sum(map(len, texts)) / tokens, max_tokens)
    info = ModelInfo(name=model_name(model), fingerprint=encoder_fingerprint(encoder))
    return SourceInfo(info, encoder.get_embedding_dimension(), mean)


def open_encoded(plan: BuildPlan, advice: str) -> SourceInfo:
    """Sample the embeddings of a corpus that comes encoded.

    Raises:
        InputError: none is usable; the message names the first problem and ends with `advice`.
    """
    problem = ""
    for part in plan.parts:
        lengths = []
        dim = 0
        for where, passage in islice(read_part(part, plan.fields, tokens=True), _SAMPLE_SIZE):
            try:
                tokens_TD = check_tokens(passage, dim or None)
            except InputError as error:
                problem = problem or f"{where}: {error}"
                continue
            dim = tokens_TD.shape[1]
            lengths.append(len(tokens_TD))
        if lengths:
            return SourceInfo(None, dim, sum(lengths) / len(lengths))
    raise InputError(f"{problem}; {advice}")


def model_name(model: str) -> str:
    """Return a model's name such that every process can open it: the absolute path of a local folder."""
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else model
