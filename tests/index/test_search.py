"""Search against the slow, obvious reference: MaxSim in numpy over the reconstructed embeddings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.index import Document, Hit, Index
from raycol.index.codebook import BITS
from tests.conftest import make_clustered, unit


def reference(index: Index, ids: list[str], query: np.ndarray, k: int) -> list[tuple[str, float]]:
    scores = [(id_, float((query @ index.reconstruct(id_).T).max(axis=1).sum())) for id_ in ids]
    return sorted(scores, key=lambda hit: (-hit[1], hit[0]))[:k]


def build(path: Path, embeddings: list[np.ndarray], **settings) -> tuple[Index, list[str]]:
    ids = [f"d{number}" for number in range(len(embeddings))]
    documents = (Document(id_, array) for id_, array in zip(ids, embeddings, strict=True))
    return Index.create(path, documents, **settings), ids


def make_queries(documents: list[np.ndarray], n: int, seed: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        unit(document[rng.integers(0, len(document), 8)] + 0.5 * unit(rng.standard_normal((8, document.shape[1]))))
        for document in documents[:n]
    ]


@pytest.mark.parametrize("bits", BITS)
def test_exact_is_maxsim_over_the_decoded_tokens(tmp_path: Path, clustered: list[np.ndarray], bits: int) -> None:
    index, ids = build(tmp_path / "i", clustered, bits=bits, partition_tokens=1000)
    for query, hits in zip(make_queries(clustered, 10), index.exact(make_queries(clustered, 10), k=10), strict=True):
        expected = reference(index, ids, query, 10)
        assert np.allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-4)
        assert [hit.id for hit in hits] == [id_ for id_, _ in expected]


def test_estimates_are_the_best_visited_token_or_the_floor(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    """The kernel against its definition, in NumPy over the decoded tokens."""
    from raycol.index.kernels.candidates import estimate_documents
    from raycol.index.search import _nearest_centroids, _Query

    index, ids = build(tmp_path / "i", clustered, n_centroids=64)
    (partition,) = index.partitions
    codebook, (query_QD,) = index.codebook, make_queries(clustered, 1)
    query = _Query.prepare(query_QD, codebook)
    probes_QP, floors_Q = _nearest_centroids(query.centroid_scores_KQ, 5)
    found_N = estimate_documents(
        probes_QP, floors_Q, query.centroid_scores_KQ, query.constants_Q, query.weights_QD, partition.live_N,
        partition.offsets_N, partition.residuals_TB, partition.gains_T, partition.scales_T.view(np.uint16),
        partition.list_offsets_K, partition.list_tokens_T, codebook.bits,
    )  # fmt: skip
    for document, id_ in enumerate(ids):
        codes = partition.tokens(document).codes_T
        scores_QT = query_QD @ index.reconstruct(id_).T
        expected = 0.0
        for q, floor in enumerate(floors_Q):
            visited = scores_QT[q, np.isin(codes, probes_QP[q])]
            expected += max(0.0, visited.max() - floor) if len(visited) else 0.0
        assert found_N[document] == pytest.approx(expected, abs=1e-4)
    assert (found_N > 0).any()


def test_floors_are_the_nearest_centroid_left_out() -> None:
    from raycol.index.search import _nearest_centroids

    scores_KQ = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    probes_QP, floors_Q = _nearest_centroids(scores_KQ, 7)
    for q in range(4):
        order = np.argsort(-scores_KQ[:, q])
        assert set(probes_QP[q]) == set(order[:7])
        assert floors_Q[q] == scores_KQ[order[7], q]


def test_few_exact_scores_suffice_where_many_lists_are_visited(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    index, _ = build(tmp_path / "i", clustered, partition_tokens=1000)
    queries = make_queries(clustered, 20)
    assert index.search(queries, n_probe=10_000) == index.exact(queries)
    found = index.search(queries, k=5, n_probe=index.codebook.n_centroids - 1, n_rescore=5)
    overlap = [
        len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in zip(found, index.exact(queries, 5), strict=True)
    ]
    assert np.mean(overlap) > 4.8


def test_default_settings_find_nearly_all(tmp_path: Path) -> None:
    documents = make_clustered(2000, 64, seed=3, n_centres=500)
    index, _ = build(tmp_path / "i", documents)
    queries = make_queries(documents, 50)
    found, exact = index.search(queries), index.exact(queries)
    overlap = [len({hit.id for hit in a} & {hit.id for hit in b}) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(overlap) > 0.95
    assert found == index.search(queries)


def test_quantising_keeps_the_ranking(tmp_path: Path) -> None:
    documents = make_clustered(500, 64, seed=4, n_centres=200)
    index, ids = build(tmp_path / "i", documents)
    queries = make_queries(documents, 20)
    overlap = []
    for query, hits in zip(queries, index.exact(queries), strict=True):
        true = sorted(ids, key=lambda id_: -(query @ documents[int(id_[1:])].T).max(axis=1).sum())[:10]
        overlap.append(len({hit.id for hit in hits} & set(true)) / 10)
    assert np.mean(overlap) > 0.8


def test_a_score_below_zero_stays_below_zero(tmp_path: Path) -> None:
    token = unit(np.eye(1, 16))
    index, _ = build(tmp_path / "i", [token], bits=8)
    for hits in (index.search([-0.5 * token]), index.exact([-0.5 * token])):
        assert hits[0][0].score == pytest.approx(-0.5, abs=0.01)


def test_equal_scores_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    token = unit(np.ones((1, 16)))
    documents = [Document(id_, token) for id_ in ("c", "a", "d", "b")]
    index = Index.create(tmp_path / "i", documents, partition_tokens=1)
    assert [hit.id for hit in index.search([token], k=3)[0]] == ["a", "b", "c"]
    assert [hit.id for hit in index.exact([token], k=3)[0]] == ["a", "b", "c"]


def test_shards_together_find_what_the_whole_finds(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    from raycol.index.search import merge_hits

    whole, _ = build(tmp_path / "i", clustered, partition_tokens=600)
    names = [info.name for info in whole.manifest.partitions]
    shards = [Index.open(tmp_path / "i", partitions=names[start::2]) for start in (0, 1)]
    assert sum(map(len, shards)) == len(whole)
    queries = make_queries(clustered, 10)
    parts = zip(*(shard.search(queries, n_rescore=200) for shard in shards), strict=True)
    assert [merge_hits(part, 10) for part in parts] == whole.search(queries, n_rescore=200)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_small_index_answers_exactly(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    documents = make_clustered(data.draw(st.integers(1, 12)), 8, seed)
    bits, per_partition = data.draw(st.sampled_from(BITS)), data.draw(st.integers(1, 200))
    path = tmp_path_factory.mktemp("small") / "i"
    index, ids = build(path, documents, bits=bits, partition_tokens=per_partition)
    query = make_queries(documents, 1, seed)[0]
    k = data.draw(st.integers(1, 20))
    hits = index.search([query], k=k)[0]
    expected = reference(index, ids, query, k)
    assert len(hits) == min(k, len(documents))
    assert np.allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-4)


@pytest.mark.parametrize(
    ("query", "settings", "message"),
    [
        (np.full((2, 16), np.nan, np.float32), {}, "query 0: embeddings hold NaN"),
        (np.ones((2, 8), np.float32), {}, "query 0: embeddings of 8 dimensions; the index has 16"),
        (np.ones((0, 16), np.float32), {}, "expected .tokens, dim."),
        (np.ones(16, np.float32), {}, "expected .tokens, dim."),
        (np.ones((2, 16), np.int64), {}, "expected floating point"),
        (np.ones((2, 16), np.float32), {"k": 0}, "k is 0"),
        (np.ones((2, 16), np.float32), {"k": -1}, "k is -1"),
        (np.ones((2, 16), np.float32), {"n_probe": 0}, "n_probe is 0"),
    ],
)
def test_unusable_queries_are_refused(tmp_path: Path, query: np.ndarray, settings: dict, message: str) -> None:
    index = Index.create(tmp_path / "i", [Document("a", np.ones((1, 16), np.float32))])
    with pytest.raises(InputError, match=message):
        index.search([query], **settings)


def test_a_hit_is_an_id_and_a_score() -> None:
    assert Hit("a", 1.0) == Hit(id="a", score=1.0)
