"""The work on one part of the corpus, as plain functions: read, encode, quantise, write. No Ray.

A part's embeddings never leave the process that made them: what goes on to the disk is quantised.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from raycol.data import Fields, Passage, Problem
from raycol.data.corpus import OnError, refuse
from raycol.errors import InputError
from raycol.index.codebook import Codebook, directions_of
from raycol.index.columns import Columns, metadata_table
from raycol.index.document import check_embeddings
from raycol.index.manifest import PartitionInfo, SplitInfo
from raycol.index.partition_writer import Coder, reorder_tokens, save_partition
from raycol.index.pooling import token_pooling
from raycol.index.storage import Store
from raycol.indexing.encode import encode_texts
from raycol.indexing.metadata import stored
from raycol.indexing.plan import Part, read_part
from raycol.indexing.split import split_passage

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
    those that `problems` tells of. `cpu_s` is by stage.
    """

    model_config = ConfigDict(frozen=True)

    info: PartitionInfo | None
    documents: int
    truncated: int
    problems: list[Problem]
    left_out: list[str] = []
    cpu_s: dict[str, float]
    wall_s: float
    peak_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens that were stored."""
        return self.info.tokens if self.info else 0


@dataclass
class Clock:
    """CPU seconds of this process by stage."""

    cpu_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens inside to a stage."""
        started = time.process_time()
        try:
            yield
        finally:
            self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + time.process_time() - started


def build_partition(
    part: Part, task: Task, codebook: Codebook, store: Store, encoder: MultiVectorEncoder | None
) -> Built:
    """Make the partition of a part: encode its texts, or take its embeddings, and quantise them.

    Raises:
        InputError: embeddings that cannot be used, unless such documents are skipped.
        RaycolError: the corpus is no longer what was planned, or the index cannot be written.
    """
    started, clock = time.perf_counter(), Clock()
    coder = Coder(codebook)
    problems: list[Problem] = []
    left_out: list[str] = []
    truncated = 0
    if encoder is None:
        passages = _code_embeddings(part, task, coder, problems, left_out, clock)
        n_documents, order = len(passages), list(range(len(passages)))
    else:
        with clock("read"):
            documents = [passage for _, passage in read_part(part, task.fields)]
            passages = list(_split(documents, task, encoder))
        n_documents = len(documents)
        order, truncated = _code_texts(passages, task, coder, encoder, clock)
    info = None
    if passages:
        with clock("quantise"):
            tokens, error = coder.finish()
        with clock("write"):
            lengths_N, place_N = np.array(coder.lengths), np.argsort(order)
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
        documents=n_documents,
        truncated=truncated,
        problems=problems,
        left_out=left_out,
        cpu_s=clock.cpu_s,
        wall_s=time.perf_counter() - started,
        peak_bytes=peak_memory(),
    )


def _split(documents: Sequence[Passage], task: Task, encoder: MultiVectorEncoder) -> Iterator[Passage]:
    if task.split is None:
        yield from documents
        return
    for document in documents:
        yield from split_passage(document, encoder.tokenizer, task.split.tokens, task.split.overlap)


def _code_texts(
    passages: Sequence[Passage], task: Task, coder: Coder, encoder: MultiVectorEncoder, clock: Clock
) -> tuple[list[int], int]:
    """Encode and quantise, as batches come; return the order in which that was, and how many texts were cut."""
    pool = token_pooling(task.pool_factor)
    order: list[int] = []
    truncated = 0
    batches = encode_texts(encoder, [passage.content for passage in passages], task.batch_tokens)
    while True:
        with clock("encode"):
            batch = next(batches, None)
        if batch is None:
            return order, truncated
        order += batch.positions
        truncated += batch.truncated
        for position, embeddings in zip(batch.positions, batch.embeddings, strict=True):
            name = f"document {passages[position].id!r}"
            with clock("pool"):
                tokens_TD = check_embeddings(pool(embeddings) if pool else embeddings, None, name)
            with clock("quantise"):
                coder.add(tokens_TD)


def _code_embeddings(
    part: Part, task: Task, coder: Coder, problems: list[Problem], left_out: list[str], clock: Clock
) -> list[Passage]:
    """Quantise the embeddings that came with the documents; return the documents, without them."""
    pool = token_pooling(task.pool_factor)
    passages: list[Passage] = []
    documents = read_part(part, task.fields, tokens=True)
    while True:
        with clock("read"):
            found = next(documents, None)
        if found is None:
            return passages
        where, passage = found
        try:
            tokens_TD = check_tokens(passage, coder.dim)
        except InputError as error:
            refuse(problem := Problem(where, str(error)), task.on_error)
            problems.append(problem)
            left_out.append(passage.id)
            continue
        with clock("pool"):
            tokens_TD = pool(tokens_TD) if pool else tokens_TD
        with clock("quantise"):
            coder.add(tokens_TD)
        passages.append(Passage(passage.id, passage.title, passage.text, passage.metadata))


def check_tokens(passage: Passage, dim: int | None) -> NDArray[np.float32]:
    """A passage's own embeddings, float32 [n_tokens, dim]. Raises `InputError`."""
    if passage.embeddings is None:
        raise InputError(f"document {passage.id!r} has no embeddings")
    return check_embeddings(passage.embeddings, dim, f"document {passage.id!r}")


def encode_sample(
    part: Part, positions: Sequence[int], task: Task, encoder: MultiVectorEncoder | None, dim: int
) -> NDArray[np.float16]:
    """The directions of the tokens of some documents of a part, float16 [T, dim], in the documents' order.

    Documents whose own embeddings are unusable are left out: building their partition will name them.
    """
    wanted = set(positions)
    documents = islice(read_part(part, task.fields, tokens=encoder is None), max(wanted) + 1)
    chosen = [passage for position, (_, passage) in enumerate(documents) if position in wanted]
    pool = token_pooling(task.pool_factor)
    tokens: dict[int, NDArray[np.float32]] = {}
    if encoder is None:
        for position, passage in enumerate(chosen):
            try:
                tokens[position] = check_tokens(passage, dim)
            except InputError:
                continue
    else:
        passages = list(_split(chosen, task, encoder))
        for batch in encode_texts(encoder, [passage.content for passage in passages], task.batch_tokens):
            tokens |= dict(zip(batch.positions, batch.embeddings, strict=True))
    directions = [directions_of(pool(tokens[place]) if pool else tokens[place]) for place in sorted(tokens)]
    return np.concatenate(directions) if directions else np.empty((0, 0), dtype=np.float16)


def release_memory() -> None:
    """Give back to the system what the last part left unused.

    Batches of ever other sizes leave holes between what stays; glibc keeps those, in the long run some hundred
    megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
