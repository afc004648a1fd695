"""Search and rerank a test collection with the stages of a system."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from raycol.core.progress import Report
from raycol.data import Passage
from raycol.data.collection import Collection, CorpusSurvey, missing_documents
from raycol.distributed.executor import Executor
from raycol.errors import InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.exact import Vectors, exact_hits, exact_index_hits
from raycol.evaluation.runs import search_bm25, search_index
from raycol.evaluation.scoring import ModelScorer
from raycol.evaluation.single_vector import open_single_vector, single_vector_fingerprint
from raycol.evaluation.systems import DEFAULT_DEPTH, Stage, System
from raycol.evaluation.top_hits import Hits
from raycol.evaluation.trec import read_run
from raycol.index.format.manifest import passage_id
from raycol.indexing.plan import plan_build, read_part
from raycol.storage import Store

if TYPE_CHECKING:
    from raycol.index import Index
    from raycol.retrieval import Retriever

# Documents that are encoded and scored at a time.
_BATCH = 128
# An index of more tokens is scored exactly as a job.
_MAX_DIRECT_TOKENS = 1 << 20
# Texts of a request to an endpoint.
_QUERIES = 32


@dataclass
class Cost:
    """What a system cost: seconds, and CPU seconds of all processes; None if it runs elsewhere."""

    seconds: float = 0.0
    cpu_s: float | None = 0.0


@dataclass
class CollectionRun:
    """The hits of a system on a collection, in the order of its queries.

    Args:
        hits: of each query.
        cost: of searching, opening models included.
        notes: what this system lacks or leaves out, a sentence each.
    """

    hits: list[Hits]
    cost: Cost
    notes: list[str] = field(default_factory=list)


class CollectionSearch:
    """Runs systems on one collection.

    Reads the corpus once, to check every record and cut it into parts.

    Args:
        collection: the collection.
        config: the settings.
        store: where exact scoring keeps its parts until the evaluation is complete.
        report: receives the progress.
        executor: runs exact scoring; None leaves it to `choose_executor`.

    Raises:
        InputError: a record is unusable, unless skipped, or the corpus has none of the judged documents.
    """

    def __init__(
        self,
        collection: Collection,
        config: EvaluateConfig,
        store: Store,
        report: Report,
        executor: Executor | None = None,
    ) -> None:
        self.collection = collection
        self._config, self._store, self._report, self._executor = config, store, report, executor
        self._queries = list(collection.queries.values())
        survey = CorpusSurvey(collection)
        self._plan = plan_build(
            collection.corpus_files,
            collection.fields,
            config.docs_per_partition,
            config.on_error,
            survey.add,
            report,
        )
        self.documents, self.skipped = self._plan.documents, len(self._plan.problems)
        self.notes = [*collection.notes, *survey.notes()]
        """Caveats that hold for every system."""
        copies = {id_: frozenset({id_}) for id_ in survey.copies}
        self._excluded = {
            query_id: collection.excluded.get(query_id, frozenset()) | copies.get(query_id, frozenset())
            for query_id in collection.queries
        }
        if copies:
            self.notes.append(
                f"{len(copies)} documents are copies of queries, with the same id and text, and do not count as their "
                "hits"
            )
        self._notes: list[str] = []
        self._worker_cpu_s = 0.0

    def run(self, system: System, depth: int) -> CollectionRun:
        """Return the best `depth` hits of each query, less those that the collection excludes.

        Raises:
            InputError: a model, index, endpoint or run file that cannot be used on the collection.
        """
        self._notes, self._worker_cpu_s = [], 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        # Excluded documents are dropped afterwards, so there must be as many hits more.
        margin = max(map(len, self._excluded.values()), default=0)
        first = system.first
        n_hits = depth + margin
        if system.reranker:
            n_hits = int(first.settings.get("depth", DEFAULT_DEPTH))
        hits = self._search(first, n_hits)
        if system.reranker:
            hits = self._rerank(system.reranker, hits)
        hits = [
            self._allowed(query_id, found)[:depth]
            for query_id, found in zip(self.collection.queries, hits, strict=True)
        ]
        elsewhere = any(stage.kind in ("endpoint", "run") for stage in system.stages)
        cost = Cost(time.perf_counter() - wall, None if elsewhere else time.process_time() - cpu + self._worker_cpu_s)
        return CollectionRun(hits, cost, self._notes)

    def _allowed(self, query_id: str, hits: Hits) -> Hits:
        excluded = self._excluded[query_id]
        return [hit for hit in hits if hit[0] not in excluded] if excluded else hits

    def _search(self, stage: Stage, depth: int) -> list[Hits]:
        self._report(0, None, f"searching with {stage}")
        if stage.kind in ("exact", "single"):
            return self._exact(stage, depth)
        if stage.kind == "index":
            index = self._open_index(stage)
            settings = {
                name: stage.settings[name] for name in ("effort", "n_probe", "n_rescore") if name in stage.settings
            }
            embeddings = self._encode_queries(stage, index)
            if settings.get("effort") == "exact" and index.stats().tokens > _MAX_DIRECT_TOKENS:
                return self._exact_index(index, embeddings, depth)
            return search_index(index, embeddings, depth, settings, self._report)
        if stage.kind == "bm25":
            return search_bm25(list(self._passages()), self._queries, depth)
        if stage.kind == "endpoint":
            with self._retriever(stage) as retriever:
                settings = dict(stage.settings)
                return [
                    [(hit.id, hit.score) for hit in hits]
                    for batch in self._batches(self._queries)
                    for hits in retriever.search(batch, depth, **settings)
                ]
        run = read_run(stage.target, self.collection.queries)
        if missing := [query_id for query_id in self.collection.queries if query_id not in run]:
            self._notes.append(f"{stage.target}: no hits for {len(missing)} queries, such as {missing[0]!r:.60}")
        return [
            sorted(run.get(query_id, {}).items(), key=lambda hit: (-hit[1], hit[0]))[:depth]
            for query_id in self.collection.queries
        ]

    def _exact(self, stage: Stage, depth: int) -> list[Hits]:
        vectors: Vectors = "multi" if stage.kind == "exact" else "single"
        fingerprint = model_fingerprint(stage)
        exact = exact_hits(
            self._plan, self._queries, stage.target, fingerprint, vectors, depth, self._config, self._store,
            self._report, self._executor, is_temporary=self._config.out is None,
            embedding_size=stage.embedding_size,
        )  # fmt: skip
        self._worker_cpu_s += exact.worker_cpu_s
        return exact.hits

    def _exact_index(self, index: Index, queries: list[Any], depth: int) -> list[Hits]:
        exact = exact_index_hits(
            index, queries, depth, self._config, self._store, self._report, self._executor,
            is_temporary=self._config.out is None,
        )  # fmt: skip
        self._worker_cpu_s += exact.worker_cpu_s
        return exact.hits

    def _rerank(self, stage: Stage, hits: list[Hits]) -> list[Hits]:
        self._report(0, None, f"reranking with {stage}")
        ids = [[id_ for id_, _ in found] for found in hits]
        if stage.kind == "index":
            index = self._open_index(stage)
            if index.manifest.split:
                raise InputError(f"{stage.target}: holds passages of split documents, which cannot rerank documents")
            known = [[id_ for id_ in each if id_ in index] for each in ids]
            self._note_unknown(stage, ids, known)
            embeddings = self._encode_queries(stage, index)
            ranked = index.rerank(embeddings, known)
            return [[(hit.id, hit.score) for hit in found] for found in ranked]
        if stage.kind == "endpoint":
            with self._retriever(stage) as retriever:
                results = retriever.rerank(self._queries, ids)
                return [[(hit.id, hit.score) for hit in found] for found in results]
        return self._rerank_texts(stage, ids)

    def _rerank_texts(self, stage: Stage, ids: list[list[str]]) -> list[Hits]:
        """Score the texts of candidates, each encoded once."""
        rows_of: dict[str, list[int]] = {}
        for row, each in enumerate(ids):
            for id_ in each:
                rows_of.setdefault(id_, []).append(row)
        passages = [passage for passage in self._passages() if passage.id in rows_of]
        known = {passage.id for passage in passages}
        self._note_unknown(stage, ids, [[id_ for id_ in each if id_ in known] for each in ids])
        scorer = ModelScorer(self._open_model(stage), self._queries)
        found: list[Hits] = [[] for _ in ids]
        for start in range(0, len(passages), _BATCH):
            batch = passages[start : start + _BATCH]
            scores_QN = scorer([passage.content for passage in batch])
            for column, passage in enumerate(batch):
                for row in rows_of[passage.id]:
                    found[row].append((passage.id, float(scores_QN[row, column])))
            self._report(start + len(batch), len(passages), "encoding and scoring candidates")
        return [sorted(each, key=lambda hit: (-hit[1], hit[0])) for each in found]

    def _passages(self) -> Iterator[Passage]:
        """Yield the usable documents of the corpus."""
        for part in self._plan.parts:
            yield from (passage for _, passage in read_part(part, self._plan.fields))

    def _note_unknown(self, stage: Stage, ids: Sequence[Sequence[str]], known: Sequence[Sequence[str]]) -> None:
        if lost := sum(map(len, ids)) - sum(map(len, known)):
            self._notes.append(f"{lost} candidates are not in {stage}, and are left out")

    def _open_index(self, stage: Stage) -> Index:
        from raycol.index import Index

        version = stage.settings.get("version")
        index = Index.open(stage.target, int(version) if version is not None else None)
        has = partial(_has_document, index)
        for note in missing_documents(self.collection.qrels, has, f"the index {stage.target}"):
            if note not in self._notes:
                self._notes.append(note)
        return index

    def _encode_queries(self, stage: Stage, index: Index) -> list[Any]:
        from raycol.models.encoder import load_index_encoder

        name = stage.settings.get("model")
        encoder = load_index_encoder(index.manifest.model, str(name) if name else None, device=self._config.device)
        self._report(0, None, "encoding the queries")
        embeddings = encoder.encode_query(self._queries, convert_to_numpy=True, show_progress_bar=False)
        return [np.asarray(query, dtype=np.float32) for query in embeddings]

    def _open_model(self, stage: Stage) -> Any:
        if stage.kind == "single":
            return open_single_vector(stage.target, self._config.device)
        from raycol.models.encoder import load_encoder, probe_encoder

        encoder = load_encoder(stage.target, device=self._config.device, embedding_size=stage.embedding_size)
        probe_encoder(encoder, stage.target)
        return encoder

    def _retriever(self, stage: Stage) -> Retriever:
        from raycol.retrieval import Retriever

        return Retriever(stage.target)

    def _batches(self, items: Sequence[str]) -> list[list[str]]:
        return [list(items[start : start + _QUERIES]) for start in range(0, len(items), _QUERIES)]


def model_fingerprint(stage: Stage) -> str:
    """Open and check a model before workers do; return its fingerprint."""
    if stage.kind == "single":
        return single_vector_fingerprint(open_single_vector(stage.target, "cpu"))
    from raycol.models.encoder import encoder_fingerprint, load_encoder, probe_encoder

    encoder = load_encoder(stage.target, device="cpu", embedding_size=stage.embedding_size)
    probe_encoder(encoder, stage.target)
    return encoder_fingerprint(encoder)


def _has_document(index: Index, id_: str) -> bool:
    """Whether an index has a document, whole or split into passages."""
    return id_ in index or (index.manifest.split is not None and passage_id(id_, 0) in index)
