"""The work on one part of the corpus, as plain functions: read, encode, quantise, write. No Ray.

A part's embeddings never leave the process that made them: what goes on to the disk is quantised.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from raycol.core.memory import peak_memory
from raycol.data import BadRecord, Fields, Passage
from raycol.data.corpus import OnError, refuse
from raycol.errors import InputError
from raycol.index.codec.codebook import Codebook, unit_vectors
from raycol.index.codec.pooling import token_pooling
from raycol.index.format.columns import Columns, metadata_table
from raycol.index.format.document import check_embeddings
from raycol.index.format.manifest import PartitionInfo, SplitInfo
from raycol.index.format.partition_writer import Quantiser, reorder_tokens, save_partition
from raycol.indexing.clock import Clock
from raycol.indexing.encode import document_length, encode_texts
from raycol.indexing.metadata import stored
from raycol.indexing.plan import PartitionPlan, read_part
from raycol.indexing.split import Splitter
from raycol.models.tokenization import prompt_of
from raycol.storage import Store

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


@dataclass(frozen=True)
class Task:
    """What the work on all parts has in common. `base` is the version that the build started from."""

    fields: Fields
    columns: Columns
    batch_tokens: int
    pool_factor: float
    on_error: OnError
    base: int
    split: SplitInfo | None = None

    def to_json(self) -> str:
        """As a worker gets it."""
        return _TASK.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Undo `to_json`."""
        return _TASK.validate_json(text)


_TASK = TypeAdapter(Task)


class Built(BaseModel):
    """What became of a part: its partition (none where no document was usable), and how the work went.

    `documents` are those of the corpus; of split ones the partition has several passages. `left_out` has the ids of
    those of which nothing is in the partition. `problems` also tells of single passages. `cpu_s` is by stage.
    """

    model_config = ConfigDict(frozen=True)

    info: PartitionInfo | None
    documents: int
    truncated: int
    problems: list[BadRecord]
    left_out: list[str] = []
    cpu_s: dict[str, float]
    wall_s: float
    peak_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens that were stored."""
        return self.info.tokens if self.info else 0


def build_partition(
    part: PartitionPlan, task: Task, codebook: Codebook, store: Store, encoder: MultiVectorEncoder | None
) -> Built:
    """Make the partition of a part: encode its texts, or take its embeddings, and quantise them.

    Raises:
        InputError: embeddings that cannot be used, unless such documents are skipped.
        RaycolError: the corpus is no longer what was planned, or the index cannot be written.
    """
    started, clock = time.perf_counter(), Clock()
    coder = Quantiser(codebook)
    coded = _Coded()
    if encoder is None:
        _code_embeddings(part, task, coder, coded, clock)
    else:
        _code_texts(part, task, coder, encoder, coded, clock)
    # Codes stand in the order of encoding, the partition in that of the corpus.
    places = sorted(coded.passages)
    passages = [coded.passages[place] for place in places]
    info = None
    if passages:
        with clock("quantise"):
            tokens, error = coder.finish()
        with clock("write"):
            lengths_N, place_N = np.array(coder.lengths), np.argsort(list(coded.passages))
            info = save_partition(
                store,
                [passage.id for passage in passages],
                metadata_table([stored(passage, task.columns) for passage in passages], task.columns),
                lengths_N[place_N],
                reorder_tokens(tokens, lengths_N, place_N),
                error,
                codebook.n_centroids,
                task.base,
            )
    return Built(
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
class _Coded:
    """What came of the passages of a part: those that were coded, by their place in it, in the order of coding."""

    passages: dict[int, Passage] = field(default_factory=dict)
    problems: list[BadRecord] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    truncated: int = 0

    def refuse(self, where: str, error: InputError, on_error: OnError) -> None:
        """Note a passage that cannot be used. Raises `InputError` unless such are skipped."""
        refuse(problem := BadRecord(where, str(error)), on_error)
        self.problems.append(problem)


def _code_texts(
    part: PartitionPlan, task: Task, coder: Quantiser, encoder: MultiVectorEncoder, coded: _Coded, clock: Clock
) -> None:
    """Read, split, encode and quantise, batch by batch."""
    pool = token_pooling(task.pool_factor)
    with clock("read"):
        documents, split = list(read_part(part, task.fields)), _splitter(task, encoder)
        pieces = [(number, piece) for number, (_, document) in enumerate(documents) for piece in split(document)]
    batches = encode_texts(encoder, [piece.content for _, piece in pieces], task.batch_tokens)
    while True:
        with clock("encode"):
            batch = next(batches, None)
        if batch is None:
            break
        coded.truncated += batch.truncated
        for place, embeddings in zip(batch.positions, batch.embeddings, strict=True):
            number, piece = pieces[place]
            try:
                tokens_TD = check_embeddings(embeddings, None, f"document {piece.id!r}")
            except InputError as error:  # an overflow, most likely
                coded.refuse(documents[number][0], error, task.on_error)
                continue
            with clock("pool"):
                tokens_TD = pool(tokens_TD) if pool else tokens_TD
            with clock("quantise"):
                coder.add(tokens_TD)
            coded.passages[place] = piece
    there = {pieces[place][0] for place in coded.passages}
    coded.left_out += [passage.id for number, (_, passage) in enumerate(documents) if number not in there]


def _splitter(task: Task, encoder: MultiVectorEncoder) -> Callable[[Passage], Iterable[Passage]]:
    if task.split is None:
        return lambda document: [document]
    return Splitter(encoder.tokenizer, task.split, document_length(encoder), prompt_of(encoder, "document"))


def _code_embeddings(part: PartitionPlan, task: Task, coder: Quantiser, coded: _Coded, clock: Clock) -> None:
    """Quantise the embeddings that came with the documents, which are not kept."""
    pool = token_pooling(task.pool_factor)
    documents = read_part(part, task.fields, tokens=True)
    while True:
        with clock("read"):
            found = next(documents, None)
        if found is None:
            return
        where, passage = found
        try:
            tokens_TD = check_tokens(passage, coder.dim)
        except InputError as error:
            coded.refuse(where, error, task.on_error)
            coded.left_out.append(passage.id)
            continue
        with clock("pool"):
            tokens_TD = pool(tokens_TD) if pool else tokens_TD
        with clock("quantise"):
            coder.add(tokens_TD)
        place = len(coded.passages)
        coded.passages[place] = Passage(passage.id, passage.title, passage.text, passage.metadata)


def check_tokens(passage: Passage, dim: int | None) -> NDArray[np.float32]:
    """A passage's own embeddings, float32 [n_tokens, dim]. Raises `InputError`."""
    if passage.embeddings is None:
        raise InputError(f"document {passage.id!r} has no embeddings")
    return check_embeddings(passage.embeddings, dim, f"document {passage.id!r}")


def encode_sample(
    part: PartitionPlan, positions: Sequence[int], task: Task, encoder: MultiVectorEncoder | None, dim: int
) -> NDArray[np.float16]:
    """The directions of the tokens of some documents of a part, float16 [T, dim], in the documents' order.

    Passages whose embeddings are unusable are left out: building their partition will name them.
    """
    wanted = set(positions)
    documents = islice(read_part(part, task.fields, tokens=encoder is None), max(wanted) + 1)
    chosen = [passage for position, (_, passage) in enumerate(documents) if position in wanted]
    tokens: dict[int, NDArray[np.float32]] = {}
    if encoder is None:
        passages = chosen
        made: Iterable[tuple[int, Any]] = enumerate(passage.embeddings for passage in passages)
    else:
        split = _splitter(task, encoder)
        passages = [piece for document in chosen for piece in split(document)]
        batches = encode_texts(encoder, [passage.content for passage in passages], task.batch_tokens)
        made = (pair for batch in batches for pair in zip(batch.positions, batch.embeddings, strict=True))
    for place, embeddings in made:
        with suppress(InputError):
            tokens[place] = check_tokens(replace(passages[place], embeddings=embeddings), dim)
    pool = token_pooling(task.pool_factor)
    directions = [unit_vectors(pool(tokens[place]) if pool else tokens[place]) for place in sorted(tokens)]
    return np.concatenate(directions) if directions else np.empty((0, 0), dtype=np.float16)


def release_memory() -> None:
    """Give back to the system what the last part left unused.

    Batches of ever other sizes leave holes between what stays; glibc keeps those, in the long run some hundred
    megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
