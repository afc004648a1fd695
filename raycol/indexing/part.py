"""Build one part of the corpus, in plain functions without Ray: read, encode, quantise, write.

A part's embeddings never leave this process; only quantised tokens are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raycol.core.memory import peak_memory
from raycol.data import BadRecord, Fields, Passage
from raycol.data.corpus import OnError, refuse
from raycol.distributed.executor import OnProgress, ignore_progress
from raycol.distributed.partitioned_job import PartRecord
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.pooling import token_pooling
from raycol.index.codec.training import unit_vectors
from raycol.index.format.columns import Columns, metadata_table
from raycol.index.format.document import check_embeddings
from raycol.index.format.manifest import PARTITIONS, PartitionInfo, SplitInfo
from raycol.index.format.partition_writer import Quantiser, reorder_tokens, save_partition
from raycol.indexing.clock import Clock
from raycol.indexing.encode import document_length, encode_texts
from raycol.indexing.metadata import stored_values
from raycol.indexing.plan import PartitionPlan, read_part
from raycol.indexing.split import Splitter
from raycol.models.tokenization import prompt_of
from raycol.storage import Store, StoredFolder

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


@dataclass(frozen=True)
class PartSettings:
    """Settings of every part of a build. `base` is the version that the build started from, 0 for a new index."""

    fields: Fields
    columns: Columns
    batch_tokens: int
    pool_factor: float
    on_error: OnError
    base: int
    split: SplitInfo | None = None


class BuiltPart(PartRecord):
    """A finished part: its partition and statistics.

    Args:
        info: the partition; None if the part has no usable document.
        documents: documents of the corpus in the partition, each of which has several passages if it is split.
        truncated: documents (passages) truncated at the model's length.
        problems: unusable documents and passages.
        left_out: ids of the documents of which the partition has no passage.
        cpu_s: CPU seconds by stage.
        wall_s: seconds of the whole part.
        peak_bytes: peak memory of the worker.
    """

    info: PartitionInfo | None
    documents: int
    truncated: int
    problems: list[BadRecord]
    left_out: list[str] = Field([])
    cpu_s: dict[str, float]
    wall_s: float
    peak_bytes: int

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The partition."""
        return [StoredFolder(folder=f"{PARTITIONS}/{self.info.name}", files=self.info.files)] if self.info else []

    @property
    def tokens(self) -> int:
        """Tokens in the partition."""
        return self.info.tokens if self.info else 0


def build_partition(
    part: PartitionPlan,
    settings: PartSettings,
    codebook: Codebook,
    store: Store,
    encoder: MultiVectorEncoder | None,
    on_progress: OnProgress = ignore_progress,
) -> BuiltPart:
    """Write the partition of a part: encode its texts, or read its embeddings, and quantise them.

    `on_progress` is called with the number of documents encoded.

    Raises:
        InputError: unusable embeddings, unless `settings.on_error` skips them.
        RaycolError: the corpus changed since it was planned, or the index cannot be written.
    """
    started, clock = time.perf_counter(), Clock()
    coder = Quantiser(codebook)
    coded = _CodedPassages()
    if encoder is None:
        _code_embeddings(part, settings, coder, coded, clock, on_progress)
    else:
        _code_texts(part, settings, coder, encoder, coded, clock, on_progress)
    # The coder has the passages in encoding order; the partition stores them in corpus order.
    passages = [coded.passages[position] for position in sorted(coded.passages)]
    info = None
    if passages:
        with clock("quantise"):
            tokens, error = coder.finish()
        with clock("write"):
            lengths_N, order_N = np.array(coder.lengths), np.argsort(list(coded.passages))
            info = save_partition(
                store,
                [passage.id for passage in passages],
                metadata_table([stored_values(passage, settings.columns) for passage in passages], settings.columns),
                lengths_N[order_N],
                reorder_tokens(tokens, lengths_N, order_N),
                error,
                codebook.n_centroids,
                settings.base,
            )
    return BuiltPart(
        info=info,
        documents=part.documents - len(coded.left_out),
        truncated=coded.truncated,
        problems=coded.problems,
        left_out=coded.left_out,
        cpu_s=clock.cpu_s,
        wall_s=time.perf_counter() - started,
        peak_bytes=peak_memory(),
    )


@dataclass
class _CodedPassages:
    """Quantised passages of a part, by position in the part and in the order of quantising; and what was left out."""

    passages: dict[int, Passage] = field(default_factory=dict)
    problems: list[BadRecord] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    truncated: int = 0

    def refuse(self, where: str, error: InputError, on_error: OnError) -> None:
        """Record an unusable passage. Raises `InputError` unless `on_error` skips it."""
        refuse(problem := BadRecord(where, str(error)), on_error)
        self.problems.append(problem)


def _code_texts(
    part: PartitionPlan,
    settings: PartSettings,
    coder: Quantiser,
    encoder: MultiVectorEncoder,
    coded: _CodedPassages,
    clock: Clock,
    on_progress: OnProgress,
) -> None:
    """Read, split, encode and quantise, batch by batch."""
    pool = token_pooling(settings.pool_factor)
    with clock("read"):
        documents, split = list(read_part(part, settings.fields)), _splitter(settings, encoder)
        passages = [
            (ordinal, passage) for ordinal, (_, document) in enumerate(documents) for passage in split(document)
        ]
    batches = encode_texts(encoder, [passage.content for _, passage in passages], settings.batch_tokens)
    while True:
        with clock("encode"):
            batch = next(batches, None)
        if batch is None:
            break
        coded.truncated += batch.truncated
        for position, embeddings in zip(batch.positions, batch.embeddings, strict=True):
            ordinal, passage = passages[position]
            try:
                tokens_TD = check_embeddings(embeddings, None, f"document {passage.id!r}")
            except InputError as error:  # most likely an overflow
                coded.refuse(documents[ordinal][0], error, settings.on_error)
                continue
            with clock("pool"):
                tokens_TD = pool(tokens_TD) if pool else tokens_TD
            with clock("quantise"):
                coder.add(tokens_TD)
            coded.passages[position] = passage
        on_progress(part.documents * len(coded.passages) // len(passages))
    with_passages = {passages[position][0] for position in coded.passages}
    coded.left_out += [document.id for ordinal, (_, document) in enumerate(documents) if ordinal not in with_passages]


def _splitter(settings: PartSettings, encoder: MultiVectorEncoder) -> Callable[[Passage], Iterable[Passage]]:
    """Return a function from a document to its passages; the document itself if it is not split."""
    if settings.split is None:
        return lambda document: [document]
    return Splitter(encoder.tokenizer, settings.split, document_length(encoder), prompt_of(encoder, "document"))


def _code_embeddings(
    part: PartitionPlan,
    settings: PartSettings,
    coder: Quantiser,
    coded: _CodedPassages,
    clock: Clock,
    on_progress: OnProgress,
) -> None:
    """Read and quantise embeddings, document by document: none is kept in memory."""
    pool = token_pooling(settings.pool_factor)
    documents = read_part(part, settings.fields, tokens=True)
    while True:
        with clock("read"):
            item = next(documents, None)
        if item is None:
            return
        where, passage = item
        try:
            tokens_TD = check_tokens(passage, coder.dim)
        except InputError as error:
            coded.refuse(where, error, settings.on_error)
            coded.left_out.append(passage.id)
            continue
        with clock("pool"):
            tokens_TD = pool(tokens_TD) if pool else tokens_TD
        with clock("quantise"):
            coder.add(tokens_TD)
        coded.passages[len(coded.passages)] = replace(passage, embeddings=None)
        on_progress(len(coded.passages))


def check_tokens(passage: Passage, dim: int | None) -> NDArray[np.float32]:
    """Return the embeddings of a passage that comes encoded, float32 [n_tokens, dim]. Raises `InputError`."""
    if passage.embeddings is None:
        raise InputError(f"document {passage.id!r} has no embeddings")
    return check_embeddings(passage.embeddings, dim, f"document {passage.id!r}")


def encode_sample(
    part: PartitionPlan,
    positions: Sequence[int],
    settings: PartSettings,
    encoder: MultiVectorEncoder | None,
    dim: int,
    on_progress: OnProgress = ignore_progress,
) -> NDArray[np.float16]:
    """Return the token directions of a part's sampled documents, float16 [T, dim], in the documents' order.

    Skips unusable embeddings: building their partition reports them.
    """
    sampled = set(positions)
    documents = islice(read_part(part, settings.fields, tokens=encoder is None), max(sampled) + 1)
    sample = [document for position, (_, document) in enumerate(documents) if position in sampled]
    tokens: dict[int, NDArray[np.float32]] = {}
    if encoder is None:
        passages = sample
        encoded: Iterable[tuple[int, Any]] = enumerate(passage.embeddings for passage in passages)
    else:
        split = _splitter(settings, encoder)
        passages = [passage for document in sample for passage in split(document)]
        batches = encode_texts(encoder, [passage.content for passage in passages], settings.batch_tokens)
        encoded = (pair for batch in batches for pair in zip(batch.positions, batch.embeddings, strict=True))
    for position, embeddings in encoded:
        with suppress(InputError):
            tokens[position] = check_tokens(replace(passages[position], embeddings=embeddings), dim)
        on_progress(len(sample) * len(tokens) // len(passages))
    pool = token_pooling(settings.pool_factor)
    directions = [unit_vectors(pool(tokens[position]) if pool else tokens[position]) for position in sorted(tokens)]
    return np.concatenate(directions) if directions else np.empty((0, 0), dtype=np.float16)
