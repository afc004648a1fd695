"""Build one part of the corpus, in plain functions without Ray: read and tokenise, encode and quantise, write.

`build_partition` does all; each of its three stages may run in a process of its own (`indexing.workers`). A part's
embeddings never leave the process that encodes; only quantised tokens do.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from raycol.core.memory import peak_memory
from raycol.data import BadRecord, Fields, Passage
from raycol.data.corpus import OnError, refuse
from raycol.distributed.executor import OnProgress, ignore_progress
from raycol.distributed.partitioned_job import PartRecord
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.pooling import token_pooling
from raycol.index.codec.protocol import TokenCodes
from raycol.index.codec.training import unit_vectors
from raycol.index.format.columns import Columns, metadata_table
from raycol.index.format.document import check_embeddings
from raycol.index.format.manifest import PARTITIONS, PartitionInfo, SplitInfo
from raycol.index.format.partition_writer import Quantiser, reorder_tokens, save_partition
from raycol.indexing.clock import Clock
from raycol.indexing.encode import TokenisedTexts, document_length, encode_texts, encode_tokenised, tokenise_texts
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


class Span(BaseModel):
    """When a stage of a part ran, in seconds since the epoch, and in which process: its host and id."""

    model_config = ConfigDict(frozen=True)

    process: str
    start: float
    end: float


class BuiltPart(PartRecord):
    """A finished part: its partition and statistics.

    Args:
        info: the partition; None if the part has no usable document.
        documents: documents of the corpus in the partition, each of which has several passages if it is split.
        truncated: documents (passages) truncated at the model's length.
        problems: unusable documents and passages.
        left_out: ids of the documents of which the partition has no passage.
        cpu_s: CPU seconds by what was done: read, tokenise, encode, pool, quantise, write.
        wall_s: seconds of all stages together.
        peak_bytes: peak memory of the worker; of the largest, if the stages had processes of their own.
        spans: when each of the stages read, encode and write ran, and where.
    """

    info: PartitionInfo | None
    documents: int
    truncated: int
    problems: list[BadRecord]
    left_out: list[str] = Field([])
    cpu_s: dict[str, float]
    wall_s: float
    peak_bytes: int
    spans: dict[str, Span]

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The partition."""
        return [StoredFolder(folder=f"{PARTITIONS}/{self.info.name}", files=self.info.files)] if self.info else []

    @property
    def tokens(self) -> int:
        """Tokens in the partition."""
        return self.info.tokens if self.info else 0


@dataclass
class _Spent:
    """What a stage of a part took: CPU seconds, its span, and the peak memory of its process."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    peak_bytes: int = 0


@contextmanager
def _stage(name: str) -> Iterator[tuple[_Spent, Clock]]:
    """Measure a stage: what it took is known at the end of the context."""
    spent, clock, start = _Spent(), Clock(), time.time()
    yield spent, clock
    spent.cpu_s |= clock.cpu_s
    spent.spans[name] = Span(process=f"{platform.node()}:{os.getpid()}", start=start, end=time.time())
    spent.peak_bytes = peak_memory()


@dataclass(frozen=True)
class ReadTexts:
    """A part whose texts are read, split and tokenised.

    Args:
        location: of the part, for messages.
        documents: the part's documents, each with its file and line (row), without their texts.
        passages: what is encoded, each with the ordinal of its document.
        tokenised: their tokens.
        spent: what it took.
    """

    location: str
    documents: list[tuple[str, str]]
    passages: list[tuple[int, Passage]]
    tokenised: list[TokenisedTexts]
    spent: _Spent


@dataclass(frozen=True)
class CodedPart:
    """A part whose tokens are quantised.

    Args:
        location: of the part, for messages.
        documents: usable documents.
        passages: what was quantised, in corpus order.
        lengths_N, tokens, error: their tokens, in corpus order (see `save_partition`).
        truncated, problems, left_out: as in `BuiltPart`.
        spent: what it took so far.
    """

    location: str
    documents: int
    passages: list[Passage]
    lengths_N: NDArray[np.int64]
    tokens: TokenCodes | None
    error: float
    truncated: int
    problems: list[BadRecord]
    left_out: list[str]
    spent: _Spent


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
    if encoder is None:
        coded = code_embeddings(part, settings, codebook, on_progress)
    else:
        coded = code_texts(read_texts(part, settings, encoder), settings, codebook, encoder, on_progress)
    return write_part(coded, settings, codebook.n_centroids, store)


def read_texts(part: PartitionPlan, settings: PartSettings, encoder: MultiVectorEncoder) -> ReadTexts:
    """Read, split and tokenise a part's texts; this needs no weights of the encoder.

    Raises:
        RaycolError: the corpus changed since it was planned.
    """
    with _stage("read") as (spent, clock):
        with clock("read"):
            documents, split = list(read_part(part, settings.fields)), _splitter(settings, encoder)
            passages = [
                (ordinal, passage) for ordinal, (_, document) in enumerate(documents) for passage in split(document)
            ]
        with clock("tokenise"):
            tokenised = list(tokenise_texts(encoder, [passage.content for _, passage in passages]))
    where = [(where, document.id) for where, document in documents]
    return ReadTexts(part.location, where, passages, tokenised, spent)


def code_texts(
    read: ReadTexts,
    settings: PartSettings,
    codebook: Codebook,
    encoder: MultiVectorEncoder,
    on_progress: OnProgress = ignore_progress,
) -> CodedPart:
    """Encode and quantise a part's texts, batch by batch.

    Raises:
        InputError: the encoder returned unusable embeddings, unless `settings.on_error` skips them.
    """
    coded, pool = _Coding(codebook, settings.on_error), token_pooling(settings.pool_factor)
    with _stage("encode") as (spent, clock):
        batches = encode_tokenised(encoder, read.tokenised, settings.batch_tokens)
        while True:
            with clock("encode"):
                batch = next(batches, None)
            if batch is None:
                break
            coded.truncated += batch.truncated
            for position, embeddings in zip(batch.positions, batch.embeddings, strict=True):
                ordinal, passage = read.passages[position]
                try:
                    tokens_TD = check_embeddings(embeddings, None, f"document {passage.id!r}")
                except InputError as error:  # most likely an overflow
                    coded.refuse(read.documents[ordinal][0], error)
                    continue
                with clock("pool"):
                    tokens_TD = pool(tokens_TD) if pool else tokens_TD
                with clock("quantise"):
                    coded.add(position, passage, tokens_TD)
            on_progress(len(read.documents) * len(coded.passages) // len(read.passages))
        encoded = {read.passages[position][0] for position in coded.passages}
        coded.left_out += [id_ for ordinal, (_, id_) in enumerate(read.documents) if ordinal not in encoded]
        with clock("quantise"):
            part = coded.finish(read.location, len(read.documents), spent)
    return replace(part, spent=_together(read.spent, spent))


def code_embeddings(
    part: PartitionPlan, settings: PartSettings, codebook: Codebook, on_progress: OnProgress = ignore_progress
) -> CodedPart:
    """Read and quantise a part's embeddings, document by document: none is kept in memory.

    Raises:
        InputError: unusable embeddings, unless `settings.on_error` skips them.
        RaycolError: the corpus changed since it was planned.
    """
    coded, pool = _Coding(codebook, settings.on_error), token_pooling(settings.pool_factor)
    with _stage("encode") as (spent, clock):
        documents = read_part(part, settings.fields, tokens=True)
        while True:
            with clock("read"):
                item = next(documents, None)
            if item is None:
                break
            where, passage = item
            try:
                tokens_TD = check_tokens(passage, codebook.dim)
            except InputError as error:
                coded.refuse(where, error)
                coded.left_out.append(passage.id)
                continue
            with clock("pool"):
                tokens_TD = pool(tokens_TD) if pool else tokens_TD
            with clock("quantise"):
                coded.add(len(coded.passages), replace(passage, embeddings=None), tokens_TD)
            on_progress(len(coded.passages))
        with clock("quantise"):
            return coded.finish(part.location, part.documents, spent)


def write_part(coded: CodedPart, settings: PartSettings, n_centroids: int, store: Store) -> BuiltPart:
    """Write the partition of a quantised part. Raises `RaycolError` if the index cannot be written."""
    info = None
    with _stage("write") as (spent, clock), clock("write"):
        if coded.tokens:
            info = save_partition(
                store,
                [passage.id for passage in coded.passages],
                metadata_table(
                    [stored_values(passage, settings.columns) for passage in coded.passages], settings.columns
                ),
                coded.lengths_N,
                coded.tokens,
                coded.error,
                n_centroids,
                settings.base,
            )
    spent = _together(coded.spent, spent)
    return BuiltPart(
        info=info,
        documents=coded.documents,
        truncated=coded.truncated,
        problems=coded.problems,
        left_out=coded.left_out,
        cpu_s=spent.cpu_s,
        wall_s=sum(span.end - span.start for span in spent.spans.values()),
        peak_bytes=spent.peak_bytes,
        spans=spent.spans,
    )


def _together(before: _Spent, after: _Spent) -> _Spent:
    return _Spent(before.cpu_s | after.cpu_s, before.spans | after.spans, max(before.peak_bytes, after.peak_bytes))


class _Coding:
    """Quantises the passages of a part in any order. `passages` are those so far, by their position in the part."""

    def __init__(self, codebook: Codebook, on_error: OnError) -> None:
        self.passages: dict[int, Passage] = {}
        self.problems: list[BadRecord] = []
        self.left_out: list[str] = []
        self.truncated = 0
        self._quantiser = Quantiser(codebook)
        self._on_error = on_error

    def add(self, position: int, passage: Passage, tokens_TD: NDArray[np.float32]) -> None:
        """Quantise a passage."""
        self._quantiser.add(tokens_TD)
        self.passages[position] = passage

    def refuse(self, where: str, error: InputError) -> None:
        """Record an unusable passage. Raises `InputError` unless `on_error` skips it."""
        refuse(problem := BadRecord(where, str(error)), self._on_error)
        self.problems.append(problem)

    def finish(self, location: str, documents: int, spent: _Spent) -> CodedPart:
        """Return the part, with the passages in corpus order."""
        tokens, error = self._quantiser.finish() if self.passages else (None, 0.0)
        lengths_N, order_N = np.array(self._quantiser.lengths, np.int64), np.argsort(list(self.passages))
        return CodedPart(
            location=location,
            documents=documents - len(self.left_out),
            passages=[self.passages[position] for position in sorted(self.passages)],
            lengths_N=lengths_N[order_N],
            tokens=reorder_tokens(tokens, lengths_N, order_N) if tokens else None,
            error=error,
            truncated=self.truncated,
            problems=self.problems,
            left_out=self.left_out,
            spent=spent,
        )


def _splitter(settings: PartSettings, encoder: MultiVectorEncoder) -> Callable[[Passage], Iterable[Passage]]:
    """Return a function from a document to its passages; the document itself if it is not split."""
    if settings.split is None:
        return lambda document: [document]
    return Splitter(encoder.tokenizer, settings.split, document_length(encoder), prompt_of(encoder, "document"))


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
