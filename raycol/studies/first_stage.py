"""Study `first-stage`: ways to find candidates, at several budgets, each reranked by exact MaxSim.

A budget is a number of candidates. Milliseconds are of finding them, one query at a time on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raycol.core.config import Positive
from raycol.errors import InputError
from raycol.evaluation.metrics import depth_of, parse_metrics
from raycol.index import Index
from raycol.index.search.candidates import rank
from raycol.index.search.effort import EFFORTS
from raycol.index.search.plan import SearchPlan
from raycol.index.search.query import Query
from raycol.index.searcher import document_set_of
from raycol.studies.cells import SCRATCH, Bench, CellSettings, OpenCollection, Point
from raycol.studies.embeddings import maxsim, mean_token, product
from raycol.studies.peer import run_peer

Find = Callable[[int, int], NDArray[np.int64]]
"""Positions of the best candidates of a query, best first: number of the query, budget."""

# Hits of exact MaxSim that candidates should include.
_TRUTH = 10


class FirstStageSettings(CellSettings):
    """Settings of a cell: a first stage."""

    first: Literal["lists", "proxy", "bm25", "exact", "hnsw"]
    """raycol's inverted lists; the mean of a document's tokens, exactly; BM25; MaxSim over all documents; HNSW over
    tokens by Voyager."""

    budgets: tuple[Positive, ...] = (20, 50, 100, 200, 500, 1000)
    """Numbers of candidates."""

    effort: Literal["fast", "default", "thorough"] | None = None
    """Inverted lists that `lists` visits."""

    bits: int = 4
    """Bits of the index whose lists are visited."""

    ef: Positive = 200
    """Voyager's ef of a query."""

    neighbours: Positive = 100
    """Tokens that Voyager finds for each query token."""

    timed: Positive = 50
    """Queries that `exact` is timed on."""

    @property
    def needs_peers(self) -> bool:
        """See `CellSettings`."""
        return self.first == "hnsw"


def measure(settings: FirstStageSettings, collection: str | None, bench: Bench) -> list[Point]:
    """Find candidates of every query at every budget, and rerank them exactly."""
    opened = bench.open(collection)
    n_documents = len(opened.embeddings.documents.ids)
    budgets = sorted({min(budget, n_documents) for budget in settings.budgets})
    if settings.first == "hnsw":
        found = _by_voyager(settings, opened, bench, budgets)
        return [_point(opened, settings, budget, *found[budget]) for budget in budgets]
    with tempfile.TemporaryDirectory(dir=bench.config.out, prefix=SCRATCH) as folder:
        find = _FINDERS[settings.first](settings, opened, Path(folder))
        if settings.first == "exact":
            candidates, ms = _timed(find, opened, budgets[-1])
            return [_point(opened, settings, budgets[-1], candidates, ms[: settings.timed])]
        return [_point(opened, settings, budget, *_timed(find, opened, budget)) for budget in budgets]


def _timed(find: Find, opened: OpenCollection, budget: int) -> tuple[list[list[int]], list[float]]:
    find(0, budget)  # compiles, and reads what is read once
    candidates, milliseconds = [], []
    for number in range(len(opened.embeddings.queries.ids)):
        started = time.perf_counter()
        found = find(number, budget)
        milliseconds.append(1000 * (time.perf_counter() - started))
        candidates.append(found.tolist())
    return candidates, milliseconds


def _point(
    opened: OpenCollection, settings: FirstStageSettings, budget: int, candidates: list[list[int]], ms: list[float]
) -> Point:
    """Rerank candidates by their exact scores."""
    ids, exact_MN = opened.embeddings.documents.ids, opened.embeddings.exact
    depth = depth_of(parse_metrics(opened.metrics)) + opened.margin
    truth = opened.embeddings.best(_TRUTH)
    hits, found = [], {}
    for row, (query, positions) in enumerate(zip(opened.embeddings.queries.ids, candidates, strict=True)):
        scores = exact_MN[row][positions].tolist()
        ranked = sorted(((ids[position], score) for position, score in zip(positions, scores, strict=True)),
                        key=lambda hit: (-hit[1], hit[0]))  # fmt: skip
        hits.append(ranked[:depth])
        best = {id_ for id_, _ in truth[row]}
        found[query] = len(best & {ids[position] for position in positions}) / len(best)
    quantiles = np.percentile(ms, [50, 95, 99]).tolist()
    return Point(
        collection=opened.name,
        settings={"budget": budget},
        per_query={**opened.score(hits), "R of exact@10": found},
        numbers=dict(zip(("p50 ms", "p95 ms", "p99 ms"), quantiles, strict=True)),
        series={"ms": ms},
    )


def _lists(settings: FirstStageSettings, opened: OpenCollection, folder: Path) -> Find:
    """Stages 1 to 3 of a search: candidates ranked as if tokens were their centroids."""
    index = Index.create(folder / "index", opened.embeddings.index_documents(), bits=settings.bits)
    document_set = document_set_of(index._snapshot, None, None, "ignore")
    n_probe = min(EFFORTS[settings.effort or "default"].n_probe, index.codebook.n_centroids)
    queries = list(opened.embeddings.queries)
    position = {id_: row for row, id_ in enumerate(opened.embeddings.documents.ids)}
    ids = [id_ for partition in index.partitions for id_ in partition.ids.take(np.arange(partition.info.documents))]
    of_ordinal = np.array([position[id_] for id_ in ids])

    def find(number: int, budget: int) -> NDArray[np.int64]:
        query = Query.prepare(np.asarray(queries[number], np.float32))
        # As many candidates as a search that rescores `budget` documents ranks in stage 3.
        limit = min(8 * budget, len(of_ordinal))
        plan = SearchPlan(budget, limit, n_probe, exact=False)
        best: NDArray[np.int64] = of_ordinal[rank(index.generator.find(query, document_set, plan, limit))[:budget]]
        return best

    return find


def _proxy(settings: FirstStageSettings, opened: OpenCollection, folder: Path) -> Find:
    """One vector a document. The sum over query tokens of their products with it is one product."""
    documents_ND = np.stack([mean_token(tokens_TD) for tokens_TD in opened.embeddings.documents])
    queries_MD = np.stack([tokens_TD.sum(axis=0) for tokens_TD in opened.embeddings.queries])
    return lambda number, budget: _best(product(documents_ND, queries_MD[number]), budget)


def _exact(settings: FirstStageSettings, opened: OpenCollection, folder: Path) -> Find:
    """MaxSim over all documents; after the first `timed` queries, looked up."""
    queries, blocks = list(opened.embeddings.queries), opened.embeddings.documents.blocks
    exact_MN = opened.embeddings.exact

    def find(number: int, budget: int) -> NDArray[np.int64]:
        scores_N = maxsim([queries[number]], blocks)[0] if number < settings.timed else exact_MN[number]
        return _best(scores_N, budget)

    return find


def _bm25(settings: FirstStageSettings, opened: OpenCollection, folder: Path) -> Find:
    """BM25 of bm25s, as in `raycol.evaluation.runs.search_bm25`; tokenising a query counts."""
    try:
        import bm25s
    except ImportError:
        raise InputError("bm25: the package bm25s is missing; pip install 'raycol[demo]'") from None
    retriever = bm25s.BM25()
    contents = [passage.content for passage in opened.source.passages()]
    retriever.index(bm25s.tokenize(contents, stopwords="en", show_progress=False), show_progress=False)
    texts = list(opened.topics.queries.values())

    def find(number: int, budget: int) -> NDArray[np.int64]:
        tokens = bm25s.tokenize([texts[number]], stopwords="en", show_progress=False)
        positions, _ = retriever.retrieve(tokens, k=budget, show_progress=False)
        best: NDArray[np.int64] = positions[0]
        return best

    return find


def _best(scores_N: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Positions of the highest scores, best first."""
    top = np.argpartition(-scores_N, n - 1)[:n]
    best: NDArray[np.int64] = top[np.lexsort((top, -scores_N[top]))]
    return best


def _by_voyager(
    settings: FirstStageSettings, opened: OpenCollection, bench: Bench, budgets: list[int]
) -> dict[int, tuple[list[list[int]], list[float]]]:
    asked = {"ef": settings.ef, "neighbours": settings.neighbours, "budgets": budgets}
    answer = run_peer("voyager", bench.config.peers, opened.embeddings, asked, threads=1)
    return {int(budget): (found["positions"], found["ms"]) for budget, found in answer["found"].items()}


_FINDERS = {"lists": _lists, "proxy": _proxy, "bm25": _bm25, "exact": _exact}
