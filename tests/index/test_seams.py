"""A scorer, candidate generators and a codec that are plugged into search, against NumPy."""

from pathlib import Path

import numpy as np
import pytest

from raycol.errors import IndexCorruptError, InputError
from raycol.index import Document, Hit, Index
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.protocol import CODES, TokenCodes
from raycol.index.format.manifest import SearchSettings
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import write_partition
from raycol.index.search.candidates import Candidates
from raycol.index.search.document_set import DocumentSet
from raycol.index.search.lists import InvertedLists
from raycol.index.search.pipeline import search, search_exact
from raycol.index.search.plan import SearchPlan
from raycol.index.search.query import Query
from raycol.index.search.scoring import Match, MaxSim
from raycol.storage import open_store
from tests.conftest import make_clustered
from tests.index.test_search import make_queries

LIBRARY = make_clustered(300, 32, seed=7)
QUERIES = make_queries(LIBRARY, 3)


class WeightedMaxSim:
    """Each query token's best dot product, weighted by the token's position: the first counts most."""

    def score(self, query: Query, partition: Partition, documents_M: np.ndarray) -> np.ndarray:
        explained = [self.explain(query.tokens_QD, partition.embeddings(document)) for document in documents_M]
        return np.array([sum(match.score for match in matches) for matches in explained], dtype=np.float32)

    def explain(self, query_QD: np.ndarray, document_TD: np.ndarray) -> list[Match]:
        scores_QT = query_QD @ document_TD.T
        return [Match(q, int(row_T.argmax()), float(row_T.max()) / 2**q) for q, row_T in enumerate(scores_QT)]


class BruteForce:
    """Estimates every allowed document by its exact MaxSim, in thousandths."""

    def find(self, query: Query, document_set: DocumentSet, plan: SearchPlan, limit: int) -> Candidates:
        ordinals_M = document_set.ordinals
        parts = [MaxSim().score(query, *part) for part in document_set.split(ordinals_M)]
        scores_M = np.rint(1000 * (np.concatenate(parts) + query.n_tokens)).astype(np.int32)
        best_M = np.sort(np.argsort(-scores_M, kind="stable")[:limit])
        return Candidates(ordinals_M[best_M], scores_M[best_M], scores_M[best_M])


class Given:
    """Returns the same documents for every query, if they are allowed."""

    def __init__(self, ordinals: list[int]) -> None:
        self._ordinals_M = np.array(sorted(ordinals), dtype=np.int64)

    def find(self, query: Query, document_set: DocumentSet, plan: SearchPlan, limit: int) -> Candidates:
        ordinals_M = self._ordinals_M[document_set.allowed_N[self._ordinals_M]][:limit]
        zeros_M = np.zeros(len(ordinals_M), dtype=np.int32)
        return Candidates(ordinals_M, zeros_M, zeros_M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 documents in several partitions, named by their ordinals; one is deleted."""
    documents = (Document(f"d{n:03d}", array, {"n": n}) for n, array in enumerate(LIBRARY))
    made = Index.create(tmp_path_factory.mktemp("seams") / "i", documents, partition_tokens=1000)
    made.delete(["d007"])
    return Path(made.uri)


def by_numpy(index: Index, query_QD: np.ndarray, numbers: range) -> list[str]:
    weights_Q = 0.5 ** np.arange(len(query_QD))
    scores = {
        f"d{n:03d}": float((query_QD @ index.reconstruct(f"d{n:03d}").T).max(axis=1) @ weights_Q)
        for n in numbers
        if n != 7
    }
    return sorted(scores, key=lambda id_: (-scores[id_], id_))


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.mark.slow
def test_another_scorer_decides_the_order(folder: Path) -> None:
    index, usual = Index(folder, scorer=WeightedMaxSim()), Index(folder)
    exact = index.exact(QUERIES, k=300)
    assert list(map(ids, exact)) == [by_numpy(index, query, range(300)) for query in QUERIES]
    assert list(map(ids, exact)) != list(map(ids, usual.exact(QUERIES, k=300)))
    # Search rescores 128 documents and more: the best ten are among them.
    assert index.search(QUERIES) == [hits[:10] for hits in exact]
    expected = [by_numpy(index, query, range(200, 300)) for query in QUERIES]
    assert list(map(ids, index.search(QUERIES, k=100, filter="n >= 200"))) == expected
    assert list(map(ids, index.rerank(QUERIES, [reversed(best) for best in expected]))) == expected
    for query, hits in zip(QUERIES, exact, strict=True):
        assert sum(match.score for match in index.explain(query, hits[0].id)) == pytest.approx(hits[0].score)


def test_a_device_computes_maxsim_only(folder: Path) -> None:
    with pytest.raises(InputError, match=r"device is 'cuda', which scores by MaxSim"):
        Index(folder, scorer=WeightedMaxSim()).search(QUERIES, device="cuda")


def test_another_generator_finds_the_candidates(folder: Path) -> None:
    index, chosen = Index(folder, generator=BruteForce()), range(0, 300, 3)
    for settings in ({}, {"filter": "n >= 100"}, {"ids": [f"d{n:03d}" for n in range(50)]}):
        assert index.search(QUERIES, n_rescore=10, **settings) == index.exact(QUERIES, **settings)
    index = Index(folder, generator=Given(list(chosen)))
    expected = index.exact(QUERIES, ids=[f"d{n:03d}" for n in chosen])
    assert index.search(QUERIES) == expected
    assert index.search(QUERIES, filter="n >= 100") == index.exact(
        QUERIES, ids=[f"d{n:03d}" for n in chosen], filter="n >= 100"
    )
    assert Index(folder, generator=Given([])).search(QUERIES) == [[]] * len(QUERIES)


class FirstTokenOnly(MaxSim):
    """Overrides the exact scores only: the first query token's."""

    def score(self, query: Query, partition: Partition, documents_M: np.ndarray) -> np.ndarray:
        return super().score(Query.prepare(query.tokens_QD[:1]), partition, documents_M)


def test_the_scores_of_a_subclass_of_maxsim_decide(folder: Path) -> None:
    index = Index(folder, scorer=FirstTokenOnly())
    first = [query_QD[:1] for query_QD in QUERIES]
    expected = Index(folder).exact(first, 10)
    assert index.search(QUERIES, 10, n_probe=index.codebook.n_centroids, n_rescore=100) == expected


class Halves:
    """A codec of float16 vectors, which keeps only the codes and the centroids of a codebook."""

    def __init__(self, codebook: Codebook) -> None:
        self._codebook = codebook
        self.dim, self.n_centroids = codebook.dim, codebook.n_centroids
        self.centroid_bytes, self.scratch_pool = codebook.centroid_bytes, codebook.scratch_pool
        self.token_layout = {CODES: (np.uint16, ()), "halves": (np.float16, (codebook.dim,))}

    def quantise(self, tokens_TD: np.ndarray) -> tuple[TokenCodes, np.ndarray]:
        codes_T = self._codebook.nearest(tokens_TD).astype(np.uint16)
        return TokenCodes({CODES: codes_T, "halves": tokens_TD.astype(np.float16)}), np.ones(len(tokens_TD))

    def decode(self, tokens: TokenCodes) -> np.ndarray:
        return tokens.arrays["halves"].astype(np.float32)

    def scores(
        self, query_BDL: np.ndarray, n_query: int, tokens: TokenCodes, offsets_N: np.ndarray, documents_M: np.ndarray
    ) -> np.ndarray:
        query_QD = query_BDL.transpose(0, 2, 1).reshape(-1, self.dim)[:n_query]
        documents = [self.decode(tokens.take(slice(offsets_N[n], offsets_N[n + 1]))) for n in documents_M]
        return np.array([(query_QD @ array.T).max(axis=1).sum() for array in documents], dtype=np.float32)

    def near_scores(self, *_: object) -> None:
        return None

    def damage(self, tokens: TokenCodes) -> tuple[str, str] | None:
        return None


def test_another_codec_has_other_sections(folder: Path, tmp_path: Path) -> None:
    codec, store = Halves(Index(folder).codebook), open_store(tmp_path / "halves")
    documents = [Document(f"d{n:03d}", array) for n, array in enumerate(LIBRARY)]
    info = write_partition(store, documents, codec, {})
    partition = Partition.open(store, info, codec, {})
    assert {CODES, "halves"} < partition.sections.keys()
    assert not {"residuals", "scales"} & partition.sections.keys()
    partition.check()
    document_set = DocumentSet.of([partition], [partition.live_N])
    settings = SearchSettings(n_probe=codec.n_centroids, n_rescore=100)
    halves = [array.astype(np.float16).astype(np.float32) for array in LIBRARY]
    for query_QD in QUERIES:
        scores_N = np.array([(query_QD @ array.T).max(axis=1).sum() for array in halves])
        best = np.lexsort((np.arange(300), -scores_N))[:10]
        hits = search_exact(query_QD, document_set, k=10, scorer=MaxSim()).hits
        assert ids(hits) == [f"d{n:03d}" for n in best]
        assert [hit.score for hit in hits] == pytest.approx(scores_N[best])
        found = search(
            query_QD, document_set, k=10, settings=settings, n_centroids=codec.n_centroids,
            generator=InvertedLists(), scorer=MaxSim(),
        )  # fmt: skip
        assert found.hits == hits
    codec.damage = lambda tokens: ("halves", f"holds {tokens.arrays['halves'].dtype}")
    with pytest.raises(IndexCorruptError, match=r"section halves: holds float16"):
        Partition.open(store, info, codec, {}).check()
