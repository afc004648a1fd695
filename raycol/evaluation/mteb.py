"""Systems of raycol as retrieval models of MTEB (extra `mteb`).

    import mteb
    from raycol.evaluation.mteb import RetrievalModel

    mteb.evaluate(RetrievalModel("exact:my-model"), mteb.get_tasks(["SciFact", "NFCorpus"]))

It is mteb's `SearchProtocol`: the corpus and the queries are those of a task, and MTEB computes the metrics.
"""

from __future__ import annotations

import re
import tempfile
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from raycol.core.progress import no_report
from raycol.data.collection import Collection
from raycol.data.fields import Fields
from raycol.data.in_memory import stored_corpus
from raycol.data.locations import corpus_files
from raycol.errors import InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.stages import CollectionSearch, model_fingerprint
from raycol.evaluation.systems import RERANKERS, Stage, System, parse_systems
from raycol.evaluation.trec import write_run
from raycol.storage import open_store

if TYPE_CHECKING:
    from datasets import Dataset
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

_MODELS = ("exact", "single")


class RetrievalModel:
    """A system that `mteb.evaluate` takes as a model.

    In tasks with candidates (MTEB's reranking tasks), the system scores these instead of searching. Documents without
    text are never hits, unless `on_error="fail"`.

    MTEB keeps results by the model's name and revision. The revision of a model is its fingerprint; that of an index,
    an endpoint or a run file, which may change, is random, so that no result is reused.

    Args:
        system: as in `raycol evaluate`: `exact:MODEL`, `index:indexes/{collection},effort=fast`, `bm25 > exact:MODEL`,
            ...; `{collection}` stands for the name of the task.
        folder: folder of temporary files, by default the system's; on a cluster, on a disk that all nodes share.
        settings: settings of `raycol evaluate`: `device`, `num_workers`, `resources`, `dtype`, `docs_per_partition`,
            `on_error`.

    Raises:
        InputError: there is no such system or setting, or its model cannot be used.
    """

    def __init__(self, system: str, *, folder: str | Path | None = None, **settings: Any) -> None:
        (self._system,) = parse_systems([system])
        self._folder = Path(folder) if folder else None
        passed = {"data": "corpus", "on_error": "skip", **settings}
        self._config = EvaluateConfig.load(None, passed, "RetrievalModel")
        self._revision = _revision(self._system)
        self._corpus: Dataset | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name and revision; see the class."""
        from mteb.models.model_meta import ModelMeta

        is_late_interaction = any(stage.kind in ("exact", "index") for stage in self._system.stages)
        return ModelMeta.create_empty(
            overwrites={
                "name": "raycol/" + re.sub(r"[^\w.,=+-]+", "-", self._system.name),
                "revision": self._revision,
                "model_type": ["late-interaction" if is_late_interaction else "dense"],
            }
        )

    def index(self, corpus: Dataset, **_: Any) -> None:
        """Take the corpus of a task: a dataset of id, text and title; `search` reads it."""
        self._corpus = corpus

    def search(
        self,
        queries: Dataset,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the best `top_k` documents of each query.

        Args:
            queries: a dataset of id and text.
            task_metadata: of the task.
            top_k: hits per query.
            top_ranked: candidates of each query.

        Raises:
            InputError: the system cannot be used on the task.
        """
        if self._corpus is None:
            raise InputError("search() came before index(); expected the corpus first")
        corpus, self._corpus = self._corpus, None
        # MTEB decides whether a document with the id of its query is a hit. With ids of our own no document has one.
        ids = {f"mteb-query-{row}": query_id for row, query_id in enumerate(queries["id"])}
        columns = [name for name in ("id", "title", "text") if name in corpus.column_names]
        with (
            stored_corpus(corpus.select_columns(columns), self._folder) as stored,
            tempfile.TemporaryDirectory(prefix=".raycol-mteb-", dir=self._folder) as folder,
        ):
            collection = Collection(
                task_metadata.name,
                tuple(corpus_files(stored.location)),
                dict(zip(ids, _texts(queries), strict=True)),
                # An index must have these documents.
                {"corpus": dict.fromkeys(corpus["id"], 0)},
                fields=Fields(id="id", text="text", title="title" if "title" in columns else None),
                name=task_metadata.name,
            )
            system = self._system.for_collection(task_metadata.name)
            if top_ranked is not None:
                candidates = {ours: top_ranked.get(query_id, ()) for ours, query_id in ids.items()}
                system = _over_candidates(system, candidates, Path(folder) / "candidates.trec")
            search = CollectionSearch(collection, self._config, open_store(folder), no_report)
            found = search.run(system, top_k)
        for note in (*search.notes, *found.notes):
            warnings.warn(f"{task_metadata.name}: {note}", stacklevel=2)
        return {query_id: dict(hits) for query_id, hits in zip(ids.values(), found.hits, strict=True)}


def _revision(system: System) -> str:
    if any(stage.kind not in (*_MODELS, "bm25") or "{collection}" in stage.target for stage in system.stages):
        return uuid.uuid4().hex
    parts = [model_fingerprint(stage) if stage.kind in _MODELS else str(stage) for stage in system.stages]
    return xxhash.xxh3_128_hexdigest("\n".join([*parts, str(system.first.settings)]).encode())


def _texts(queries: Dataset) -> list[str]:
    """The texts of queries, each followed by its instruction if there is one, as MTEB has it."""
    texts = list(queries["text"])
    if other := next((text for text in texts if not isinstance(text, str)), None):
        raise InputError(f"a query is a {type(other).__name__}; expected a text: conversations cannot be searched")
    if "instruction" not in queries.column_names:
        return texts
    pairs = zip(texts, queries["instruction"], strict=True)
    return [text if instruction is None else f"{text} {instruction}" for text, instruction in pairs]


def _over_candidates(system: System, candidates: Mapping[str, Sequence[str]], path: Path) -> System:
    """Return a system that scores candidates, which it reads from a run file at `path`."""
    reranker = system.reranker or system.first
    if reranker.kind not in RERANKERS:
        raise InputError(
            f"system {system.name!r}: {reranker.kind} cannot rerank; expected one of {', '.join(RERANKERS)}"
        )
    run = {query_id: {id_: -float(rank) for rank, id_ in enumerate(ids)} for query_id, ids in candidates.items()}
    write_run(path, run, "candidates")
    depth = max(map(len, run.values()), default=1)
    return System(system.name, Stage("run", str(path), {"depth": depth}), reranker)
