"""The plan of a build: which lines of the corpus make which partition, and which documents are sampled.

One pass over the corpus checks every record and notes where each partition starts, so that any worker can
read its own part of the file. The plan depends on the corpus and the settings alone, never on who works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from raycol.data import Passage, Problem, corpus_file
from raycol.data.corpus import OnError, check_corpus, scan_corpus
from raycol.data.jsonl import Position
from raycol.errors import RaycolError
from raycol.index.codebook import sample_size


@dataclass(frozen=True)
class Slice:
    """Consecutive lines of a corpus file.

    Args:
        file: the corpus file.
        offset: byte at which the first line starts.
        line: number of the first line, from 1.
        documents: how many usable documents to read from there.
        digest: XXH3 of those documents, 64 bits in hexadecimal.
        skip: numbers of the lines among them that are left out.
    """

    file: str
    offset: int
    line: int
    documents: int
    digest: str
    skip: tuple[int, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """As a row of a Ray Dataset."""
        return {**asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Slice:
        """Undo `to_row`."""
        skip = tuple(int(line) for line in row["skip"])
        return cls(
            str(row["file"]), int(row["offset"]), int(row["line"]), int(row["documents"]), str(row["digest"]), skip
        )


@dataclass(frozen=True)
class Plan:
    """A build's partitions in order, how much text they hold, and what was left out."""

    partitions: list[Slice]
    documents: int
    problems: list[Problem]
    digest: str


def plan_build(corpus: Path, docs_per_partition: int, on_error: OnError) -> Plan:
    """Check every record of a corpus and cut it into partitions of consecutive documents.

    Raises:
        InputError: an unusable record (unless skipped), or an empty corpus.
    """
    file = corpus_file(corpus).resolve()
    problems: list[Problem] = []
    partitions: list[Slice] = []
    lines: list[tuple[Position, Passage | None]] = []
    usable = 0
    for position, passage in check_corpus(file, on_error, problems):
        lines.append((position, passage))
        usable += passage is not None
        if usable == docs_per_partition:
            partitions.append(_slice(file, lines))
            lines, usable = [], 0
    if usable:
        partitions.append(_slice(file, lines))
    whole = xxhash.xxh3_128("".join(partition.digest for partition in partitions).encode())
    total = sum(partition.documents for partition in partitions)
    return Plan(partitions, total, problems, whole.hexdigest())


def _slice(file: Path, lines: list[tuple[Position, Passage | None]]) -> Slice:
    start, _ = lines[0]
    passages = [passage for _, passage in lines if passage]
    skip = tuple(position.line for position, passage in lines if not passage)
    return Slice(str(file), start.offset, start.line, len(passages), _digest(passages), skip)


def _digest(passages: Iterable[Passage]) -> str:
    """XXH3 of passages, each part kept apart from the next by its length."""
    digest = xxhash.xxh3_64()
    for passage in passages:
        digest.update(f"{len(passage.id)} {len(passage.title)} {len(passage.text)} ".encode())
        digest.update(f"{passage.id}{passage.title}{passage.text}".encode())
    return digest.hexdigest()


def read_slice(part: Slice) -> list[Passage]:
    """The passages of a slice. Raises `RaycolError` where the file is no longer what was planned."""
    lines = scan_corpus(Path(part.file), Position(part.offset, part.line))
    wanted = (item for position, item in lines if position.line not in part.skip)
    passages = [item for item in islice(wanted, part.documents) if isinstance(item, Passage)]
    if _digest(passages) != part.digest:
        raise RaycolError(f"{part.file}: the corpus changed during the build; run it again")
    return passages


def sample_documents(plan: Plan, size: int | None, seed: int) -> list[list[int]]:
    """Which documents the codebook is trained on: positions within each partition, ascending."""
    size = min(size or sample_size(plan.documents), plan.documents)
    chosen = np.sort(np.random.default_rng(seed).choice(plan.documents, size, replace=False))
    ends = np.cumsum([partition.documents for partition in plan.partitions])
    pieces = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = np.concatenate([[0], ends[:-1]])
    return [(piece - start).tolist() for piece, start in zip(pieces, starts, strict=True)]
