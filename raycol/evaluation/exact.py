"""Exact scores of a whole corpus as a resumable job: every document against every query, in full precision.

The corpus is encoded in parts. Each part's documents are scored against all queries while they are in memory, and only
the best hits of each query are written; embeddings are never stored. So memory is bounded by a part, and the run does
not depend on the number of workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data import Fields
from raycol.distributed.executor import Executor, I, ModelWorkersConfig, choose_executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker
from raycol.errors import InputError
from raycol.evaluation.runs import search_index
from raycol.evaluation.scoring import ModelScorer, score_passages
from raycol.evaluation.single_vector import open_single_vector, single_vector_fingerprint
from raycol.evaluation.top_hits import Hits, TopHits
from raycol.indexing.plan import BuildPlan, PartitionPlan, read_part
from raycol.indexing.source import model_name
from raycol.indexing.workers import cast_parameters, check_same_model, device_of, open_encoder
from raycol.storage import Store, StoredFolder
from raycol.storage.checked_files import describe_bytes

if TYPE_CHECKING:
    from raycol.index import Index

Vectors = Literal["multi", "single"]
"""What a model makes of a text: one vector per token (scored by MaxSim), or one vector."""


class ScoredPart(PartRecord):
    """A finished part: its hits, and what it cost."""

    hits: StoredFolder
    cpu_s: float

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The Parquet file of hits."""
        return [self.hits]


@dataclass(frozen=True)
class ExactHits:
    """The best hits of each query, and what they cost.

    Args:
        hits: of each query, in the order of the queries.
        worker_cpu_s: CPU seconds of other processes.
    """

    hits: list[Hits]
    worker_cpu_s: float


class ExactScorer(PartWorker[PartitionPlan, ScoredPart]):
    """Encodes the documents of a part and scores them against all queries.

    Args:
        job: the job.
        on_gpu: compute on the GPU.
        dtype: of the encoder, as in `ModelWorkersConfig`.
        model, vectors, fingerprint: the encoder.
        fields: of the corpus.
        queries: texts.
        depth: hits to keep for each query.
        embedding_size: of the encoder, as in `load_encoder`.
    """

    def __init__(
        self,
        job: PartitionedJob[ScoredPart],
        on_gpu: bool,
        dtype: str,
        model: str,
        vectors: Vectors,
        fingerprint: str,
        fields: Fields,
        queries: Sequence[str],
        depth: int,
        embedding_size: int | None,
    ) -> None:
        super().__init__(job)
        self.on_gpu, self.dtype = on_gpu, dtype
        self.model, self.vectors, self.fingerprint = model, vectors, fingerprint
        self.fields, self.queries, self.depth = fields, queries, depth
        self.embedding_size = embedding_size

    def open(self) -> None:
        """Load the encoder and encode the queries."""
        if self.vectors == "multi":
            encoder = open_encoder(self.model, self.on_gpu, self.dtype, self.fingerprint, self.embedding_size)
        else:
            encoder = open_single_vector(self.model, device_of(self.on_gpu))
            check_same_model(self.model, single_vector_fingerprint(encoder), self.fingerprint)
            cast_parameters(encoder, self.on_gpu, self.dtype)
        self.scorer = ModelScorer(encoder, self.queries)

    def describe(self, number: int, input_: PartitionPlan) -> str:
        """File and first line (row) of the part."""
        return input_.location

    def compute(self, number: int, input_: PartitionPlan) -> ScoredPart:
        """Score a part and write its hits."""
        started = time.process_time()
        passages = (passage for _, passage in read_part(input_, self.fields))
        hits = score_passages(self.scorer, passages, self.depth, self.on_progress)
        return _save_hits(self.job, number, hits, started)


class StoredScorer(PartWorker[str, ScoredPart]):
    """Scores the stored tokens of a partition of an index against all queries.

    Args:
        job: the job.
        index, version: the index.
        queries: embeddings, float32 [n_tokens, dim] each.
        depth: hits to keep for each query.
    """

    def __init__(
        self,
        job: PartitionedJob[ScoredPart],
        index: str,
        version: int,
        queries: Sequence[NDArray[np.float32]],
        depth: int,
    ) -> None:
        super().__init__(job)
        self.index, self.version, self.queries, self.depth = index, version, queries, depth

    def describe(self, number: int, input_: str) -> str:
        """Name of the partition."""
        return f"partition {input_} of {self.index}"

    def compute(self, number: int, input_: str) -> ScoredPart:
        """Score a partition and write its hits."""
        from raycol.index import Index

        started = time.process_time()
        partition = Index.open(self.index, self.version, partitions=[input_])
        hits = search_index(partition, self.queries, self.depth, {"effort": "exact", "threads": 1})
        return _save_hits(self.job, number, hits, started)


def _save_hits(job: PartitionedJob[ScoredPart], number: int, hits: Sequence[Hits], started: float) -> ScoredPart:
    """Write the hits of a part; `started` is the CPU time of the process when it began."""
    table = pa.table(
        {
            "query": pa.array((row for row, found in enumerate(hits) for _ in found), pa.int32()),
            "id": pa.array((id_ for found in hits for id_, _ in found), pa.string()),
            "score": pa.array((score for found in hits for _, score in found), pa.float32()),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content, name = buffer.getvalue().to_pybytes(), f"hits-{number:08d}.parquet"
    job.store.write(f"{job.folder}/{name}", content)
    stored = StoredFolder(folder=job.folder, files={name: describe_bytes(content)})
    return ScoredPart(hits=stored, cpu_s=time.process_time() - started)


def exact_hits(
    plan: BuildPlan,
    queries: Sequence[str],
    model: str,
    fingerprint: str,
    vectors: Vectors,
    depth: int,
    config: ModelWorkersConfig,
    store: Store,
    report: Report = no_report,
    executor: Executor | None = None,
    *,
    is_temporary: bool = False,
    embedding_size: int | None = None,
) -> ExactHits:
    """Score every document of a corpus against every query; return the best hits of each query.

    An interrupted job of the same settings in the same store is resumed. It stays there: the caller removes the store
    once it has the results of all jobs.

    Args:
        plan: the corpus, cut into parts.
        queries: texts.
        model, fingerprint, vectors: the encoder.
        depth: hits to keep for each query.
        config: number, resources and dtype of the workers.
        store: where the job is; on several nodes, storage that all of them reach.
        report: receives the progress, in documents.
        executor: runs the workers; by default `choose_executor` chooses.
        is_temporary: the store is a folder of this machine.
        embedding_size: of the encoder, as in `load_encoder`; `fingerprint` is that of this size.

    Raises:
        InputError: the model of a worker is another one, its scores are not numbers, or the store is temporary and the
            cluster has several nodes.
        RaycolError: a worker failed, or the corpus changed.
    """
    settings = {
        "corpus": plan.digest,
        "parts": [part.digest for part in plan.parts],
        "queries": xxhash.xxh3_128_hexdigest(json.dumps(list(queries)).encode()),
        "model": fingerprint,
        "vectors": vectors,
        "depth": depth,
        "dtype": config.dtype,
        "on_gpu": config.on_gpu,
    }
    arguments = {
        **config.model_arguments,
        "model": model_name(model),
        "vectors": vectors,
        "fingerprint": fingerprint,
        "fields": plan.fields,
        "queries": list(queries),
        "depth": depth,
        "embedding_size": embedding_size,
    }
    sizes = [part.documents for part in plan.parts]
    job = PartitionedJob(store, "exact-", settings, ScoredPart)
    activity = "encoding and scoring"
    return _run(
        job, ExactScorer, plan.parts, sizes, arguments, config, report, executor, activity, is_temporary=is_temporary
    )


def exact_index_hits(
    index: Index,
    queries: Sequence[NDArray[np.float32]],
    depth: int,
    config: ModelWorkersConfig,
    store: Store,
    report: Report = no_report,
    executor: Executor | None = None,
    *,
    is_temporary: bool = False,
) -> ExactHits:
    """Score every stored token of an index against every query, a partition at a time; see `exact_hits`.

    Args:
        index: the index, which workers open themselves.
        queries: embeddings, float32 [n_tokens, dim] each.
        depth, config, store, report, executor, is_temporary: as for `exact_hits`.

    Raises:
        InputError: the store is temporary and the cluster has several nodes.
        RaycolError: a worker failed.
    """
    infos = index.manifest.partitions
    settings = {
        "index": index.uri,
        "version": index.version,
        "partitions": [info.name for info in infos],
        "queries": xxhash.xxh3_128_hexdigest(b"".join(np.ascontiguousarray(query).tobytes() for query in queries)),
        "tokens of the queries": [len(query) for query in queries],
        "depth": depth,
    }
    arguments = {"index": index.uri, "version": index.version, "queries": list(queries), "depth": depth}
    job = PartitionedJob(store, "exact-index-", settings, ScoredPart)
    return _run(
        job, StoredScorer, [info.name for info in infos], [info.live_documents for info in infos], arguments, config,
        report, executor, "scoring", is_temporary=is_temporary,
    )  # fmt: skip


def _run(
    job: PartitionedJob[ScoredPart],
    worker: type[PartWorker[I, ScoredPart]],
    inputs: Sequence[I],
    sizes: Sequence[int],
    arguments: Mapping[str, Any],
    config: ModelWorkersConfig,
    report: Report,
    executor: Executor | None,
    activity: str,
    *,
    is_temporary: bool,
) -> ExactHits:
    """Compute the parts and merge their hits; `arguments` are those of the worker."""
    executor = executor or choose_executor(config, len(inputs))
    with executor.session(config, report):
        if is_temporary and executor.n_nodes() > 1:
            raise InputError(
                f"the Ray cluster has {executor.n_nodes()} nodes, and each writes the parts that it scores: pass "
                "`out=` with a location that all of them reach"
            )
        job.begin()
        finished = job.finished_parts(len(inputs))
        progress = PartProgress(report, sizes, finished, executor.n_workers(config), activity)
        parts = job.run(worker, config, inputs, finished, arguments, "the evaluation", executor, progress)
    top = TopHits(len(arguments["queries"]), arguments["depth"])
    for part in parts:
        (name,) = part.hits.files
        table = pq.read_table(part.hits.file(job.store, name))
        top.merge(table["query"].to_pylist(), table["id"].to_pylist(), table["score"].to_pylist())
    worker_cpu_s = 0.0 if executor.in_process else sum(part.cpu_s for part in parts)
    return ExactHits(top.result(), worker_cpu_s)
