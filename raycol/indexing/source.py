"""Where a build's embeddings come from: an encoder, or the corpus itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from raycol.errors import InputError
from raycol.index.format.manifest import ModelInfo, SplitInfo
from raycol.indexing.encode import document_length
from raycol.indexing.part import check_tokens
from raycol.indexing.plan import BuildPlan, read_part

# Documents that are looked at to tell how long they are in tokens.
_LOOKED_AT = 64


@dataclass(frozen=True)
class SourceInfo:
    """The encoder (none where documents come encoded), dimensions, and about how many tokens a document has."""

    model: ModelInfo | None
    dim: int
    mean_tokens: float


def open_source(plan: BuildPlan, model: str | None, split: SplitInfo | None) -> SourceInfo:
    """Find out what embeddings there will be.

    Raises:
        InputError: no usable model or embeddings, or passages longer than the model takes.
    """
    if model is None:
        return open_encoded(plan, "to encode texts, name a model with --model")
    # torch is imported once the rest of the input is known to be good.
    from raycol.models.encoder import encoder_fingerprint, load_encoder, probe_encoder

    encoder = load_encoder(model, device="cpu")
    probe_encoder(encoder, model)
    if split and not encoder.tokenizer.is_fast:
        raise InputError(
            f"model {model!r}: its tokenizer does not tell where in a text its tokens are, as splitting needs; "
            "leave --split-tokens out, or save it with a fast tokenizer"
        )
    limit = document_length(encoder)
    if split and split.tokens > limit:
        raise InputError(f"split_tokens is {split.tokens}; {model!r} takes {limit} tokens, title and markers included")
    texts = [passage.content for _, passage in islice(read_part(plan.parts[0], plan.fields), _LOOKED_AT)]
    tokens = sum(map(len, encoder.tokenizer(texts, truncation=False, verbose=False)["input_ids"]))
    longest = float("inf") if split else limit
    mean = plan.mean_tokens(sum(map(len, texts)) / tokens, longest)
    info = ModelInfo(name=model_name(model), fingerprint=encoder_fingerprint(encoder))
    return SourceInfo(info, encoder.get_embedding_dimension(), mean)


def open_encoded(plan: BuildPlan, remedy: str) -> SourceInfo:
    """What the embeddings that documents come with are like. Raises `InputError` where none is usable."""
    problem = ""
    for part in plan.parts:
        lengths = []
        dim = 0
        for where, passage in islice(read_part(part, plan.fields, tokens=True), _LOOKED_AT):
            try:
                tokens_TD = check_tokens(passage, dim or None)
            except InputError as error:
                problem = problem or f"{where}: {error}"
                continue
            dim = tokens_TD.shape[1]
            lengths.append(len(tokens_TD))
        if lengths:
            return SourceInfo(None, dim, sum(lengths) / len(lengths))
    raise InputError(f"{problem}; {remedy}")


def model_name(model: str) -> str:
    """The model's name, as any process may open it."""
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else model
