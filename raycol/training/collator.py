"""Turns the examples of a batch into the encoder's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder import MultiVectorEncoderDataCollator

from raycol.errors import InputError
from raycol.models.settings import with_lengths
from raycol.models.tokenization import Task, tokenize
from raycol.training.guide import Guide
from raycol.training.positives import collate_ids, is_ids
from raycol.training.setting_types import TrainingSource


def make_collator(
    encoder: MultiVectorEncoder, sources: Sequence[TrainingSource], guides: Sequence[Guide | None] = ()
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator that tokenizes as encoding does, with the prompts and lengths of the batch's source.

    Args:
        encoder: the encoder.
        sources: all sources.
        guides: of each source, for which it also tokenizes; None for none.

    Raises:
        InputError: a length of a source exceeds the model's positions.
    """
    collators = []
    for number, source in enumerate(sources):
        try:
            collators.append(_Collator(SourceTokenizer(encoder, source, guides[number] if guides else None)))
        except InputError as error:
            raise InputError(f"data[{number}].{error}") from None
    return _Collators(tuple(collators))


class SourceTokenizer:
    """Tokenizes texts of one source: the prompt of the model, that of the source, the text.

    Args:
        encoder: the encoder.
        source: the source.
        guide: tokenizes the texts without the source's prompts, too, if there is one.

    Raises:
        InputError: a length of the source exceeds the model's positions.
    """

    def __init__(self, encoder: MultiVectorEncoder, source: TrainingSource, guide: Guide | None = None) -> None:
        self._encoder = with_lengths(encoder, source.query_length, source.document_length)
        self._prompts = {"query": source.query_prompt or "", "document": source.document_prompt or ""}
        self._guide = guide

    def __call__(self, texts: Sequence[str], task: Task, prompt: None = None) -> dict[str, Any]:
        """See `tokenize`. `prompt` comes from the Trainer's arguments, which set none."""
        features = tokenize(self._encoder, [self._prompts[task] + text for text in texts], task)
        return {**features, **(self._guide.tokenize(texts, task) if self._guide else {})}


@dataclass
class _Collators:
    """Collates a batch as its source requires."""

    by_source: tuple[_Collator, ...]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.by_source[int(rows[0]["dataset_name"])](rows)


@dataclass
class _Collator(MultiVectorEncoderDataCollator):
    """Tokenizes the texts of a batch; ids of texts become features of their columns."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [{name: value for name, value in row.items() if not is_ids(name)} for row in features]
        ids = {name: collate_ids([row[name] for row in features]) for name in features[0] if is_ids(name)}
        return {**super().__call__(texts), **ids}
