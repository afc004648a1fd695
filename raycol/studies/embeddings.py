"""Embeddings of a study's collections, computed once in parts on the workers and read by all of its cells.

Shapes: T tokens, N documents, M queries, D dimensions.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report
from raycol.data import Fields
from raycol.data.beir import open_beir
from raycol.distributed.executor import Executor, choose_executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker
from raycol.evaluation.top_hits import TopHits
from raycol.index import Document
from raycol.indexing.config import BATCH_TOKENS
from raycol.indexing.encode import encode_texts
from raycol.indexing.plan import PartitionPlan, plan_build, read_part
from raycol.indexing.workers import open_encoder
from raycol.storage import Store, StoredFolder
from raycol.storage.checked_files import describe_bytes
from raycol.studies.config import StudyConfig
from raycol.studies.material import StudyCollection

# Query-document scores of a block of exact scoring, which bounds memory.
_BLOCK_TOKENS = 1 << 16


@dataclass(frozen=True)
class EncodingTask:
    """Texts of a collection to encode: a part of its documents, or its queries."""

    collection: str
    documents: PartitionPlan | None
    queries: tuple[tuple[str, str], ...] = ()


class EncodedPart(PartRecord):
    """Embeddings of a part: files of tokens [T, D], tokens per text, and ids."""

    collection: str
    is_queries: bool
    texts: int
    stored: StoredFolder

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The three files."""
        return [self.stored]


class TextEncoder(PartWorker[EncodingTask, EncodedPart]):
    """Encodes parts.

    Args:
        job: the job.
        on_gpu, dtype: as in `ModelWorkersConfig`.
        model, fingerprint: the encoder.
    """

    def __init__(
        self, job: PartitionedJob[EncodedPart], on_gpu: bool, dtype: str, model: str, fingerprint: str
    ) -> None:
        super().__init__(job)
        self.on_gpu, self.dtype, self.model, self.fingerprint = on_gpu, dtype, model, fingerprint
        self.batch_tokens = BATCH_TOKENS["GPU" if on_gpu else "CPU"]

    def open(self) -> None:
        """Load the encoder."""
        self.encoder = open_encoder(self.model, self.on_gpu, self.dtype, self.fingerprint)

    def describe(self, number: int, input_: EncodingTask) -> str:
        """File and first line (row) of the part."""
        return input_.documents.location if input_.documents else f"the queries of {input_.collection}"

    def compute(self, number: int, input_: EncodingTask) -> EncodedPart:
        """Encode a part and write its files."""
        embeddings: list[NDArray[np.float32]]
        if input_.documents:
            passages = [passage for _, passage in read_part(input_.documents, Fields())]
            ids, texts = [each.id for each in passages], [each.content for each in passages]
            by_position: dict[int, NDArray[np.float32]] = {}
            for batch in encode_texts(self.encoder, texts, self.batch_tokens):
                by_position |= zip(batch.positions, batch.embeddings, strict=True)
                self.on_progress(len(by_position))
            embeddings = [by_position[position] for position in range(len(texts))]
        else:
            ids, texts = [id_ for id_, _ in input_.queries], [text for _, text in input_.queries]
            embeddings = self.encoder.encode_query(texts, convert_to_numpy=True, show_progress_bar=False)
        contents = {
            f"tokens-{number:08d}.npy": _npy(np.concatenate(embeddings).astype(np.float32)),
            f"lengths-{number:08d}.npy": _npy(np.array([len(each) for each in embeddings], np.int64)),
            f"ids-{number:08d}.json": json.dumps(ids).encode(),
        }
        for name, content in contents.items():
            self.job.store.write(f"{self.job.folder}/{name}", content)
        files = {name: describe_bytes(content) for name, content in contents.items()}
        stored = StoredFolder(folder=self.job.folder, files=files)
        return EncodedPart(
            collection=input_.collection, is_queries=not input_.documents, texts=len(ids), stored=stored
        )


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Texts:
    """Ids and embeddings of texts, memory-mapped.

    Args:
        ids: N ids.
        blocks: files of tokens, each with the first text and the tokens per text.
    """

    ids: list[str]
    blocks: list[tuple[NDArray[np.float32], NDArray[np.int64]]]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for tokens_TD, lengths_N in self.blocks:
            yield from np.split(tokens_TD, np.cumsum(lengths_N)[:-1])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text."""
        return np.concatenate([lengths_N for _, lengths_N in self.blocks])


class Embeddings:
    """The embeddings of a collection.

    Args:
        collection: the collection.
        store: of the study.
        parts: by the name of each member, in order.
    """

    def __init__(self, collection: StudyCollection, store: Store, parts: Mapping[str, Sequence[EncodedPart]]) -> None:
        self.collection = collection
        self.documents = _read(collection, store, parts, is_queries=False)
        self.queries = _read(collection, store, parts, is_queries=True)

    def index_documents(self, *, one_vector: bool = False) -> Iterator[Document]:
        """Yield the documents for an index; with `one_vector`, the mean of each one's tokens, normalised."""
        for id_, tokens_TD in zip(self.documents.ids, self.documents, strict=True):
            yield Document(id_, mean_token(tokens_TD)[None] if one_vector else tokens_TD)

    @cached_property
    def exact(self) -> NDArray[np.float32]:
        """MaxSim of every query with every document, in full precision; kept in the study's folder."""
        path = self.collection.folder / "exact.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            unfinished = path.with_name(f".exact-{os.getpid()}.npy")
            np.save(unfinished, maxsim(list(self.queries), self.documents.blocks))
            os.replace(unfinished, path)
        scores_MN: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return scores_MN

    def best(self, depth: int) -> list[list[tuple[str, float]]]:
        """Return the best documents of each query by exact MaxSim, ties by id."""
        top = TopHits(len(self.queries.ids), depth)
        top.add(self.documents.ids, self.exact)
        return top.result()


def _read(
    collection: StudyCollection, store: Store, parts: Mapping[str, Sequence[EncodedPart]], *, is_queries: bool
) -> _Texts:
    ids, blocks = [], []
    for member in collection.members:
        for part in parts[member]:
            if part.is_queries != is_queries:
                continue
            tokens, lengths, names = (
                Path(store.location(f"{part.stored.folder}/{name}")) for name in sorted(part.stored.files, key=_kind)
            )
            ids += [collection.id_of(member, id_) for id_ in json.loads(names.read_text())]
            blocks.append((np.load(tokens, mmap_mode="c"), np.load(lengths)))  # "c": torch takes writable arrays
    return _Texts(ids, blocks)


def _kind(name: str) -> int:
    return ("tokens", "lengths", "ids").index(name.split("-")[0])


def mean_token(tokens_TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of a text's tokens as a unit vector, float32 [D]."""
    mean_D = tokens_TD.mean(axis=0)
    unit_D: NDArray[np.float32] = (mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)).astype(np.float32)
    return unit_D


def product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a matrix product on torch's number of threads, which a worker sets; NumPy has no such setting."""
    import torch

    result: NDArray[np.float32] = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    return result


def maxsim(
    queries: Sequence[NDArray[np.float32]], blocks: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]
) -> NDArray[np.float32]:
    """Return the MaxSim of every query with every document, float32 [M, N].

    Args:
        queries: embeddings [tokens, D].
        blocks: tokens [T, D] of consecutive documents, with the tokens of each document.
    """
    starts_M = np.cumsum([0, *(len(query) for query in queries)])[:-1]
    query_QD = np.concatenate(list(queries))
    scores = []
    for tokens_TD, lengths_N in blocks:
        ends_N = np.cumsum(lengths_N)
        first = 0
        while first < len(lengths_N):
            begin = ends_N[first] - lengths_N[first]
            last = max(first + 1, int(np.searchsorted(ends_N, begin + _BLOCK_TOKENS // max(1, len(queries) // 64))))
            similarities_QT = product(query_QD, tokens_TD[begin : ends_N[last - 1]].T)
            offsets_N = ends_N[first:last] - lengths_N[first:last] - begin
            best_QN = np.maximum.reduceat(similarities_QT, offsets_N, axis=1)
            scores.append(np.add.reduceat(best_QN, starts_M, axis=0))
            first = last
    return np.concatenate(scores, axis=1).astype(np.float32)


def encode_collections(
    collections: Sequence[StudyCollection],
    store: Store,
    config: StudyConfig,
    fingerprint: str,
    report: Report,
    executor: Executor | None,
) -> dict[str, list[EncodedPart]]:
    """Encode the documents and queries of collections, unless an earlier run has; return the parts by collection.

    Raises:
        InputError: a record is unusable, or a worker's model is another one.
        RaycolError: a worker failed.
    """
    tasks: list[EncodingTask] = []
    for collection in collections:
        opened = open_beir(collection.folder)
        plan = plan_build(opened.corpus_files, opened.fields, config.docs_per_partition)
        tasks += [EncodingTask(collection.name, part) for part in plan.parts]
        tasks.append(EncodingTask(collection.name, None, tuple(opened.queries.items())))
    settings = {
        "model": fingerprint,
        "dtype": config.dtype,
        "on_gpu": config.on_gpu,
        "parts": [task.documents.digest if task.documents else task.queries for task in tasks],
    }
    job = PartitionedJob(store, "embeddings-", settings, EncodedPart)
    job.begin()
    finished = job.finished_parts(len(tasks))
    executor = executor or choose_executor(config, len(tasks) - len(finished))
    arguments = {**config.model_arguments, "model": config.model, "fingerprint": fingerprint}
    if len(finished) < len(tasks):
        sizes = [task.documents.documents if task.documents else len(task.queries) for task in tasks]
        with executor.session(config, report):
            progress = PartProgress(report, sizes, finished, executor.n_workers(config), "encoding")
            parts = job.run(TextEncoder, config, tasks, finished, arguments, "the study", executor, progress)
    else:
        parts = [finished[number] for number in range(len(tasks))]
    by_collection: dict[str, list[EncodedPart]] = {collection.name: [] for collection in collections}
    for part in parts:
        by_collection[part.collection].append(part)
    return by_collection
