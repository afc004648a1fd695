"""Search against a reference: MaxSim in NumPy over the reconstructed embeddings."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import ConflictError, IndexCorruptError, InputError
from raycol.index import Document, Hit, Index
from raycol.index.codec.codebook import BITS
from raycol.index.format.manifest import SearchSettings
from raycol.index.search.effort import EFFORTS
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


def recall(found: Sequence[list[Hit]], exact: Sequence[list[Hit]]) -> float:
    shares = [len(ids_of(hits) & ids_of(best)) / len(best) for hits, best in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def ids_of(hits: list[Hit]) -> set[str]:
    return {hit.id for hit in hits}


LIBRARY = make_clustered(3000, 64, seed=3, n_centres=500)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """3000 documents in several partitions, three per value of `n` under 1000; read-only."""
    numbers = np.random.default_rng(1).permutation(len(LIBRARY)) % 1000
    documents = (
        Document(f"d{number:04d}", array, {"n": int(n)})
        for number, (array, n) in enumerate(zip(LIBRARY, numbers, strict=True))
    )
    root = tmp_path_factory.mktemp("library") / "i"
    return Index.create(root, documents, n_centroids=1000, partition_tokens=20_000)


@pytest.fixture
def copied(library: Index, tmp_path: Path) -> Index:
    """A writable copy of the library."""
    return Index.open(shutil.copytree(library.uri, tmp_path / "copied"))


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
def test_exact_is_maxsim_over_the_decoded_tokens(tmp_path: Path, clustered: list[np.ndarray], bits: int) -> None:
    index, ids = build(tmp_path / "i", clustered, bits=bits, partition_tokens=1000)
    for query, hits in zip(make_queries(clustered, 10), index.exact(make_queries(clustered, 10), k=10), strict=True):
        expected = reference(index, ids, query, 10)
        assert np.allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-4)
        assert [hit.id for hit in hits] == [id_ for id_, _ in expected]


def test_few_rescored_documents_suffice_if_all_lists_are_visited(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    index, _ = build(tmp_path / "i", clustered, partition_tokens=1000)
    queries = make_queries(clustered, 20)
    everything = {"n_probe": index.codebook.n_centroids}
    assert index.search(queries, **everything, n_rescore=100) == index.exact(queries)
    assert recall(index.search(queries, k=5, **everything, n_rescore=40), index.exact(queries, 5)) > 0.95


@pytest.mark.parametrize("size", [1, -1])
@pytest.mark.slow
def test_recall_grows_with_effort_and_is_high_by_default(library: Index, size: float) -> None:
    """Negated queries are far from all documents: no effort reaches a high recall."""
    queries = [size * query for query in make_queries(LIBRARY, 50)]
    exact = library.exact(queries)
    found = {effort: library.search(queries, effort=effort) for effort in EFFORTS}
    fast, default, thorough = (recall(hits, exact) for hits in found.values())
    assert thorough > default - 0.01
    assert default > fast - 0.01
    if size > 0:
        assert default > 0.95
        assert thorough > 0.99
    assert library.search(queries) == found["default"]
    for effort, chosen in EFFORTS.items():
        assert found[effort] == library.search(queries, **chosen.model_dump())
    n_probe = EFFORTS["fast"].n_probe
    assert library.search(queries, effort="fast", n_rescore=100) == library.search(
        queries, n_probe=n_probe, n_rescore=100
    )


@pytest.mark.slow
def test_recall_grows_with_n_probe(library: Index) -> None:
    """With few candidates, so that the visited lists decide which documents are scored."""
    queries = make_queries(LIBRARY, 50)
    exact = library.exact(queries, 3)
    one, four, many = (recall(library.search(queries, 3, n_probe=n, n_rescore=24), exact) for n in (1, 4, 64))
    assert one + 0.05 < four <= many + 0.01
    assert many > 0.95


def test_a_repeated_token_in_a_later_block_counts_again(tmp_path: Path) -> None:
    """One document matches tokens 7 and 39; 24 others match one token each, with a higher score than either."""
    directions = np.eye(64, dtype=np.float32)
    index, _ = build(tmp_path / "i", [direction[None] for direction in directions[::-1]], n_centroids=64)
    query = np.zeros((64, 64), np.float32)
    query[[7, 39]], query[8:32] = directions[0], 1.5 * directions[8:32]
    (best,) = index.exact([query], 1)[0]
    assert (best.id, best.score) == ("d63", pytest.approx(2, abs=0.01))
    assert index.search([query], 1, n_probe=1, n_rescore=1) == [[best]]


@pytest.mark.parametrize("settings", [{}, {"n_probe": 4, "n_rescore": 16}, {"filter": "n < 500", "n_rescore": 16}])
def test_hits_depend_neither_on_threads_nor_on_the_batch(library: Index, settings: dict) -> None:
    queries = [*make_queries(LIBRARY, 10), *(np.concatenate(make_queries(LIBRARY, n)) for n in (4, 5, 13))]
    together = library.search(queries, **settings)
    for threads in (1, 2, 5):
        assert library.search(queries, threads=threads, **settings) == together
    assert [library.search([query], **settings)[0] for query in queries] == together
    assert library.search(queries[::-1], **settings) == together[::-1]


def test_exact_hits_do_not_depend_on_threads(library: Index) -> None:
    queries = make_queries(LIBRARY, 10)
    together = library.exact(queries)
    chosen = [[hit.id for hit in hits] for hits in together]
    for threads in (1, 2, 5):
        assert library.exact(queries, threads=threads) == together
        assert library.rerank(queries, chosen, threads=threads) == together


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [1, 31, 32, 33, 100, 1024, 1025, 3000, 8192])
def test_all_tokens_of_a_query_of_any_length_are_scored(
    tmp_path: Path, clustered: list[np.ndarray], n_tokens: int
) -> None:
    index, ids = build(tmp_path / "i", clustered, partition_tokens=1000)
    pool = make_queries(clustered * 8, 1024)
    query = np.concatenate(pool)[:n_tokens]
    expected = reference(index, ids, query, 10)
    (hits,) = index.exact([query])
    assert np.allclose([hit.score for hit in hits], [score for _, score in expected], rtol=1e-5)
    assert [hit.id for hit in hits] == [id_ for id_, _ in expected]
    assert index.search([query], 5, n_rescore=100)[0] == hits[:5]


def test_a_query_with_too_many_tokens_is_refused(library: Index) -> None:
    queries = [LIBRARY[0], np.ones((8193, 64), np.float32)]
    for refuse in (library.search, library.exact, library.tune):
        with pytest.raises(InputError, match="query 1 has 8193 tokens; expected at most 8192"):
            refuse(queries)


@pytest.mark.slow
def test_long_queries_are_scored_in_parts(library: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of blocks at a time gives the same hits; recall is the usual one."""
    query = unit(np.concatenate(LIBRARY[::20])[:3000] + 0.1)
    (exact,) = library.exact([query], 20)
    (hits,) = library.search([query], 20, n_probe=2)
    assert len(ids_of(hits) & ids_of(exact)) >= 18
    for n_blocks in (1, 7, 1000):
        monkeypatch.setattr("raycol.index.search.lists._MAX_BLOCKS", min(n_blocks, 63))
        assert library.search([query], 20, n_probe=2)[0] == hits


@pytest.mark.slow
def test_a_long_document_is_found_by_any_of_its_tokens(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    """Its last token counts as much as its first, and its length does not affect other documents."""
    long = unit(np.random.default_rng(7).standard_normal((32_768, 32)))
    index, ids = build(tmp_path / "i", [*clustered[:99], long, *clustered[100:]], n_centroids=256)
    queries = [long[-3:], long[:3], np.concatenate([long[16_000:16_040], clustered[3][:1]]), clustered[120][:2]]
    found = index.search(queries, 3, n_rescore=64)
    for query, hits in zip(queries, found, strict=True):
        id_, score = reference(index, ids, query, 1)[0]
        assert (hits[0].id, hits[0].score) == (id_, pytest.approx(score, rel=1e-5))
    assert [hits[0].id for hits in found[:3]] == ["d99"] * 3
    assert len(index.reconstruct("d99")) == 32_768


def test_quantising_keeps_the_ranking(tmp_path: Path) -> None:
    documents = make_clustered(500, 64, seed=4, n_centres=200)
    index, ids = build(tmp_path / "i", documents)
    queries = make_queries(documents, 20)
    overlap = []
    for query, hits in zip(queries, index.exact(queries), strict=True):
        true = sorted(ids, key=lambda id_: -(query @ documents[int(id_[1:])].T).max(axis=1).sum())[:10]
        overlap.append(len({hit.id for hit in hits} & set(true)) / 10)
    assert np.mean(overlap) > 0.8


def test_negative_scores_stay_negative(tmp_path: Path) -> None:
    """For a single document, and for enough documents that candidates are selected."""
    token = unit(np.eye(1, 16))
    for n_documents in (1, 40):
        index, _ = build(tmp_path / f"{n_documents}", [token] * n_documents, bits=8)
        for hits in (index.search([-0.5 * token], 1, n_rescore=2), index.exact([-0.5 * token], 1)):
            assert hits[0][0].id == "d0"
            assert hits[0][0].score == pytest.approx(-0.5, abs=0.01)


def test_the_least_negative_score_ranks_first(library: Index) -> None:
    """If all scores are negative, the best of the allowed documents is returned."""
    index, queries = library, [-document for document in LIBRARY[:5]]
    for number, query in enumerate(queries):
        hits = index.search([query], 3, ids=[f"d{other:04d}" for other in range(number, 40)], n_rescore=39)[0]
        scores = [(query @ index.reconstruct(f"d{other:04d}").T).max(axis=1).sum() for other in range(number, 40)]
        assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:3], abs=1e-4)


def test_equal_scores_are_ordered_by_id(tmp_path: Path) -> None:
    token = unit(np.ones((1, 16)))
    documents = [Document(id_, token) for id_ in ("c", "a", "d", "b")]
    index = Index.create(tmp_path / "i", documents, partition_tokens=1)
    assert [hit.id for hit in index.search([token], k=3)[0]] == ["a", "b", "c"]
    assert [hit.id for hit in index.exact([token], k=3)[0]] == ["a", "b", "c"]


def test_ties_at_rank_k_are_broken_by_id(tmp_path: Path) -> None:
    """One best document, then 60 that tie, then 240 worse ones, in seven partitions."""
    rng = np.random.default_rng(0)
    query = np.eye(1, 16, dtype=np.float32)
    tied, best = unit(np.eye(1, 16) + 0.3), unit(np.eye(1, 16) + 0.1)
    worse = [unit(rng.standard_normal((1, 16)) - 2 * np.eye(1, 16)) for _ in range(240)]
    names = [f"e{number:03d}" for number in rng.permutation(301)]
    documents = [Document(id_, array) for id_, array in zip(names, [best, *[tied] * 60, *worse], strict=True)]
    index = Index.create(
        tmp_path / "i", [documents[number] for number in rng.permutation(301)], partition_tokens=43, bits=8
    )
    assert len(index.partitions) == 7
    for k in (1, 2, 9, 61):
        expected = [names[0], *sorted(names[1:61])][:k]
        assert [hit.id for hit in index.exact([query], k)[0]] == expected
        assert [hit.id for hit in index.search([query], k, n_rescore=70)[0]] == expected
        assert [hit.id for hit in index.rerank([query], [names])[0]][:k] == expected


def test_merged_hits_of_shards_equal_those_of_the_whole_index(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    from raycol.index.search.pipeline import merge_hits

    whole, _ = build(tmp_path / "i", clustered, partition_tokens=600)
    names = [info.name for info in whole.manifest.partitions]
    shards = [Index.open(tmp_path / "i", partitions=names[start::2]) for start in (0, 1)]
    assert sum(map(len, shards)) == len(whole)
    queries = make_queries(clustered, 10)
    parts = zip(*(shard.search(queries, n_rescore=200) for shard in shards), strict=True)
    assert [merge_hits(part, 10) for part in parts] == whole.search(queries, n_rescore=200)


@given(data=st.data())
@pytest.mark.slow
def test_search_of_a_small_index_is_exact(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
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


BAD_QUERIES = [
    (np.full((2, 64), np.nan, np.float32), "query 1: embeddings hold NaN"),
    (np.full((2, 64), np.inf, np.float32), "query 1: embeddings hold NaN or infinite"),
    (np.ones((2, 8), np.float32), "query 1: embeddings of 8 dimensions; the index has 64"),
    (np.ones((0, 64), np.float32), r"query 1: embeddings of shape \(0, 64\); expected .n_tokens, dim."),
    (np.ones(64, np.float32), "query 1: .* expected .n_tokens, dim."),
    (np.ones((2, 64), np.int64), "query 1: .* expected floating point"),
]


@pytest.mark.parametrize(("query", "message"), BAD_QUERIES)
def test_invalid_queries_are_refused(library: Index, query: np.ndarray, message: str) -> None:
    queries = [LIBRARY[0], query]
    for refuse in (library.search, library.exact, library.tune, lambda queries: library.rerank(queries, [[], []])):
        with pytest.raises(InputError, match=message):
            refuse(queries)
    with pytest.raises(InputError, match=message.replace("query 1", "query 0")):
        library.explain(query, "d0000")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 or more"),
        ({"k": -1}, "k is -1; expected 1 or more"),
        ({"effort": "great"}, "effort is 'great'; expected one of fast, default, thorough"),
        ({"n_probe": 0}, "n_probe is 0; expected 1 to 1000, the number of centroids"),
        ({"n_probe": -1}, "n_probe is -1; expected 1 to 1000"),
        ({"n_probe": 1001}, "n_probe is 1001; expected 1 to 1000"),
        ({"n_rescore": 0}, "n_rescore is 0; expected 1 or more"),
        ({"n_rescore": 2**31}, "n_rescore is 2147483648; expected 1 to 2147483647"),
        ({"n_rescore": 1.5}, "n_rescore is 1.5; expected an integer"),
        ({"n_probe": True}, "n_probe is True; expected an integer"),
        ({"n_probe": "3"}, "n_probe is '3'; expected an integer"),
        ({"k": 1.5}, "k is 1.5; expected an integer"),
        ({"effort": ["fast"]}, r"effort is \['fast'\]; expected one of"),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
        ({"threads": -1}, "threads is -1; expected 1 or more"),
        ({"filter": "m = 1"}, "no column 'm'; the columns are n"),
        ({"ids": "d0001"}, "ids is 'd0001', a str; expected a list of ids"),
        ({"ids": 5}, "ids is 5, a int; expected a list of ids"),
        ({"ids": [], "on_unknown": "refuze"}, "on_unknown is 'refuze'; expected one of ignore, refuse"),
        ({"device": ["cpu"]}, r"device is \['cpu'\]; expected cpu"),
        ({"device": "no such"}, "device 'no such'"),
    ],
)
def test_settings_out_of_range_are_refused(library: Index, settings: dict, message: str) -> None:
    """Also without queries, so that a mistake does not surface only with the first query."""
    assert library.codebook.n_centroids == 1000
    for queries in ([], [LIBRARY[0]], LIBRARY[:3]):
        with pytest.raises(InputError, match=message):
            library.search(queries, **settings)
    if settings.keys() & {"k", "threads", "filter"}:
        with pytest.raises(InputError, match=message):
            library.exact([LIBRARY[0]], **settings)


def test_numpy_integers_are_accepted_as_settings(library: Index) -> None:
    settings = {"k": np.int64(3), "n_probe": np.int32(4), "n_rescore": np.uint8(64)}
    assert library.search([LIBRARY[0]], **settings) == library.search([LIBRARY[0]], k=3, n_probe=4, n_rescore=64)


@pytest.mark.parametrize("length", [1e-30, 1e-23, 1e4])
def test_hits_do_not_depend_on_the_norm_of_the_query(library: Index, length: float) -> None:
    queries = make_queries(LIBRARY, 20)
    found, scaled = (library.search([each * np.float32(size) for each in queries]) for size in (1, length))
    assert [{hit.id for hit in hits} for hits in scaled] == [{hit.id for hit in hits} for hits in found]


def test_n_rescore_grows_with_k(library: Index) -> None:
    queries, chosen = LIBRARY[:3], EFFORTS["default"]
    assert library.search(queries, 100) == library.search(queries, 100, n_probe=chosen.n_probe, n_rescore=400)
    assert library.search(queries, 3) == library.search(queries, 3, n_probe=chosen.n_probe, n_rescore=chosen.n_rescore)


def test_efforts_probe_at_most_all_centroids(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    index, _ = build(tmp_path / "i", clustered, n_centroids=8)
    queries = make_queries(clustered, 5)
    for effort, chosen in EFFORTS.items():
        n_probe = min(8, chosen.n_probe)
        assert index.search(queries, effort=effort) == index.search(
            queries, n_probe=n_probe, n_rescore=chosen.n_rescore
        )


@pytest.mark.slow
@pytest.mark.parametrize("below", [500, 100, 10, 1])
def test_recall_is_high_for_filters_of_any_selectivity(library: Index, below: int) -> None:
    """The filter keeps 50 %, 10 %, 1 % and 0.1 % of documents; `ids` of the same documents give the same hits."""
    queries = make_queries(LIBRARY, 40)
    condition = f"n < {below}"
    metadata = library.metadata([f"d{number:04d}" for number in range(3000)])
    ids = [f"d{number:04d}" for number, row in enumerate(metadata) if row["n"] < below]
    assert len(ids) == 3 * below
    exact = library.exact(queries, filter=condition)
    assert {len(hits) for hits in exact} == {min(10, len(ids))}
    found = library.search(queries, filter=condition)
    assert recall(found, exact) >= 0.95
    if below == 1:
        assert found == exact
    assert library.search(queries, ids=ids) == found
    assert library.exact(queries, ids=ids) == exact
    few = library.search(queries, k=3, filter=condition, n_rescore=48)
    assert recall(few, library.exact(queries, k=3, filter=condition)) >= 0.95


@pytest.mark.parametrize("below", [500, 200, 50])
def test_a_filter_visits_more_lists(library: Index, below: int) -> None:
    """The nearest list of each query token holds few of the documents that the filter keeps."""
    queries = make_queries(LIBRARY, 100)
    found = library.search(queries, 1, filter=f"n < {below}", n_probe=1, n_rescore=6)
    assert recall(found, library.exact(queries, 1, filter=f"n < {below}")) > 0.9


@pytest.mark.parametrize("n_probe", [1, 2, 16, 1000])
def test_k_hits_are_returned_if_k_documents_match(library: Index, n_probe: int) -> None:
    """Even if the visited lists hold few documents, and the filter keeps few of these."""
    queries = [*make_queries(LIBRARY, 5), -LIBRARY[0]]
    metadata = library.metadata([f"d{number:04d}" for number in range(3000)])
    for below in (1, 2, 10, 100, 500, 1000):
        allowed = {f"d{number:04d}" for number, row in enumerate(metadata) if row["n"] < below}
        for k in (1, 3, 10):
            for hits in library.search(queries, k, filter=f"n < {below}", n_probe=n_probe, n_rescore=1):
                assert len(ids_of(hits)) == len(hits) == min(k, len(allowed))
                assert ids_of(hits) <= allowed
    assert [len(hits) for hits in library.search(queries[:1], 5000, n_probe=n_probe)] == [3000]


def test_documents_far_from_the_query_are_found_if_only_they_match(library: Index) -> None:
    """The nearest lists hold none of the allowed documents."""
    for query in make_queries(LIBRARY, 10):
        worst = [hit.id for hit in library.exact([query], 3000)[0][-100:]]
        assert library.search([query], ids=worst)[0] == library.exact([query], ids=worst)[0]
        found = library.search([query], 5, ids=worst, n_probe=1, n_rescore=5)[0]
        assert len(found) == 5
        assert ids_of(found) <= set(worst)


@pytest.mark.parametrize("best", [500, 1500])
@pytest.mark.slow
def test_recall_is_high_if_the_nearest_documents_are_excluded(library: Index, best: int) -> None:
    """The remaining documents have similar scores."""
    queries = make_queries(LIBRARY, 20)
    farther = [[hit.id for hit in hits[best:]] for hits in library.exact(queries, 3000)]
    found = [library.search([query], ids=ids)[0] for query, ids in zip(queries, farther, strict=True)]
    exact = [library.exact([query], ids=ids)[0] for query, ids in zip(queries, farther, strict=True)]
    assert recall(found, exact) > 0.95


def test_rescoring_continues_while_it_changes_the_hits(tmp_path: Path) -> None:
    """With few centroids, stage 3 ranks badly: the hits are anywhere among the candidates."""
    documents = make_clustered(600, 32, seed=8, n_centres=300)
    index, _ = build(tmp_path / "i", documents, n_centroids=8)
    queries = make_queries(documents, 20)
    exact = index.exact(queries)
    assert recall(index.search(queries, n_rescore=40), exact) > 0.9


def test_arguments_are_validated_before_the_index_is_read(copied: Index) -> None:
    """A search with an unknown column must not verify a large index first."""
    index = Index.open(copied.uri)
    for path in Path(index.uri).glob("partitions/*/partition.bin"):
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    wrong: list[dict] = [{"filter": "m = 1"}, {"ids": "d0001"}, {"threads": 0}, {"device": "none"}, {"n_probe": 0}]
    for each in wrong:
        with pytest.raises(InputError):
            index.search(LIBRARY[:1], **each)
    with pytest.raises(IndexCorruptError):
        index.search(LIBRARY[:1])


@pytest.mark.parametrize("queries", [None, 5, "query", b"query"])
def test_queries_must_be_a_list(library: Index, queries: object) -> None:
    for refuse in (library.search, library.exact, library.tune, lambda queries: library.rerank(queries, [])):
        with pytest.raises(InputError, match=f"queries is {queries!r}; expected a list"):
            refuse(queries)


def test_k_may_exceed_the_number_of_documents(library: Index) -> None:
    for k in (3001, 600_000_000, 2**31 - 1):
        assert library.search(LIBRARY[:1], k) == library.exact(LIBRARY[:1], k)
        assert len(library.search(LIBRARY[:1], k)[0]) == 3000


def test_ids_may_be_an_iterator(library: Index) -> None:
    ids = ["d0002", "d0000"]
    assert library.metadata(iter(ids)) == library.metadata(ids) != []
    assert library.search(LIBRARY[:1], ids=iter(ids)) == library.search(LIBRARY[:1], ids=ids)
    assert library.rerank(LIBRARY[:1], iter([iter(ids)])) == library.rerank(LIBRARY[:1], [ids])


def test_rerank_returns_the_exact_scores_of_the_given_documents(library: Index) -> None:
    queries = make_queries(LIBRARY, 4)
    exact = library.exact(queries, 3000)
    chosen = [
        ["d0007"],
        ["d2999", "d0000", "d1500", "d0000"],
        [],
        [f"d{number:04d}" for number in range(2999, -1, -2)],
    ]
    found = library.rerank(queries, chosen)
    for hits, ids, every in zip(found, chosen, exact, strict=True):
        assert hits == [hit for hit in every if hit.id in set(ids)]
    assert [len(hits) for hits in found] == [1, 3, 0, 1500]
    assert library.rerank(queries[:2], [iter(["d0007"]), {"d0008"}]) == [
        [hit for hit in every if hit.id == id_] for every, id_ in zip(exact, ("d0007", "d0008"), strict=False)
    ]
    assert library.rerank([], []) == []


def test_rerank_names_unknown_documents_and_invalid_arguments(library: Index, copied: Index) -> None:
    queries = make_queries(LIBRARY, 2)
    with pytest.raises(InputError, match=r"document 'nobody' is not in the index \(1 of 2 ids are not\)"):
        library.rerank(queries, [["d0001"], ["d0002", "nobody"]])
    found = library.rerank(queries, [["nobody"], ["nobody", "d0002"]], on_unknown="ignore")
    assert [[hit.id for hit in hits] for hits in found] == [[], ["d0002"]]
    for ids in ([["d0001"]], [["d0001"]] * 3, []):
        with pytest.raises(InputError, match=rf"2 queries and {len(ids)} lists of ids; expected one list per query"):
            library.rerank(queries, ids)
    for ids in (["d0001", "d0002"], [None, None]):
        with pytest.raises(InputError, match=r"ids is ('d0001', a str|None, a NoneType); expected a list of ids"):
            library.rerank(queries, ids)
    with pytest.raises(InputError, match="ids is None; expected a list"):
        library.rerank(queries, None)
    with pytest.raises(InputError, match="on_unknown is 'Refuse'"):
        library.rerank(queries, [["nobody"], []], on_unknown="Refuse")
    copied.delete(["d0002"])
    with pytest.raises(InputError, match="document 'd0002' is not in the index"):
        copied.rerank(queries, [["d0001"], ["d0002"]])
    assert copied.rerank(queries, [["d0001"], ["d0002"]], on_unknown="ignore") == [
        library.rerank(queries[:1], [["d0001"]])[0], [],
    ]  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_an_explanation_adds_up_to_the_score(library: Index, sign: float) -> None:
    queries = [sign * query for query in [*make_queries(LIBRARY, 5), np.concatenate(make_queries(LIBRARY, 5))]]
    for query, hits in zip(queries, library.exact(queries, 3000), strict=True):
        for hit in (hits[0], hits[1], hits[-1]):
            matches = library.explain(query, hit.id)
            tokens_TD = library.reconstruct(hit.id)
            assert [match.query_token for match in matches] == list(range(len(query)))
            for match, scores_T in zip(matches, query @ tokens_TD.T, strict=True):
                assert match.document_token == scores_T.argmax()
                assert match.score == pytest.approx(scores_T.max(), abs=1e-5)
            assert sum(match.score for match in matches) == pytest.approx(hit.score, abs=1e-4)


def test_an_explanation_keeps_negative_scores(tmp_path: Path) -> None:
    """And names the first of equal tokens."""
    token = unit(np.eye(1, 16))
    index, _ = build(tmp_path / "i", [np.repeat(token, 3, axis=0)], bits=8)
    (against, with_) = index.explain(np.concatenate([-0.5 * token, token]), "d0")
    assert (against.query_token, against.document_token, with_.document_token) == (0, 0, 0)
    assert (against.score, with_.score) == (pytest.approx(-0.5, abs=0.01), pytest.approx(1, abs=0.01))


@given(dim=st.sampled_from([16, 32, 64]), n_tokens=st.integers(2, 70), n_query=st.integers(1, 9))
@pytest.mark.slow
def test_explain_names_the_first_of_equal_tokens(
    tmp_path_factory: pytest.TempPathFactory, dim: int, n_tokens: int, n_query: int
) -> None:
    rng = np.random.default_rng(dim + n_tokens)
    token, query = unit(rng.standard_normal((1, dim))), unit(rng.standard_normal((n_query, dim)))
    index, _ = build(tmp_path_factory.mktemp("equal") / "i", [np.repeat(token, n_tokens, axis=0)])
    assert {match.document_token for match in index.explain(query, "d0")} == {0}


def test_explain_refuses_unknown_documents(copied: Index) -> None:
    copied.delete(["d0002"])
    for unknown in ("nobody", "d0002"):
        with pytest.raises(InputError, match=f"document '{unknown}' is not in the index"):
            copied.explain(LIBRARY[0], unknown)


@pytest.mark.slow
def test_tuning_reaches_its_target_and_is_stored(library: Index, copied: Index) -> None:
    queries = make_queries(LIBRARY, 25)
    tuned = copied.tune(queries, 0.9)
    explicit = copied.search(queries, **tuned.settings.model_dump())
    assert tuned.recall >= 0.9
    assert tuned.recall == pytest.approx(recall(explicit, library.exact(queries)))
    assert tuned.version == copied.version == library.version + 1
    assert copied.verify() == []
    for index in (copied, Index.open(copied.uri)):
        assert index.manifest.tuned == tuned.settings
        assert index.search(queries) == index.search(queries, effort="default") == explicit
        assert index.search(queries, effort="fast") == library.search(queries, effort="fast")
        assert index.search(queries, effort="thorough") == library.search(queries, effort="thorough")
    assert library.search(queries) != explicit
    before = Index.open(copied.uri, version=library.version)
    assert before.manifest.tuned is None
    assert before.search(queries) == library.search(queries)


@pytest.mark.slow
def test_settings_tuned_for_few_hits_scale_to_many(copied: Index) -> None:
    queries = make_queries(LIBRARY, 30)
    exact = copied.exact(queries, 100)
    fast = recall(copied.search(queries, 100, effort="fast"), exact)
    copied.tune(queries, 0.5)
    assert copied.search(queries, 100) == copied.search(
        queries, 100, n_probe=copied.manifest.tuned.n_probe, n_rescore=400
    )
    assert recall(copied.search(queries, 100), exact) > fast - 0.1


def test_an_open_snapshot_does_not_see_tuning_by_another(copied: Index) -> None:
    queries = make_queries(LIBRARY, 20)
    other = Index.open(copied.uri)
    before = other.search(queries)
    copied.tune(queries, 0.5)
    assert other.manifest.tuned is None
    assert other.search(queries) == before != copied.search(queries)
    with pytest.raises(ConflictError, match="open the index again"):
        other.tune(queries, 0.5)
    assert other.version == copied.version - 1


@pytest.mark.slow
def test_tuned_settings_survive_changes_until_the_next_tuning(copied: Index) -> None:
    queries = make_queries(LIBRARY, 20)
    chosen = copied.tune(queries, 0.9).settings
    copied.append([Document("new", LIBRARY[0], {"n": 5})])
    copied.upsert([Document("new", LIBRARY[1], {"n": 6})])
    copied.delete(["d0000", "new"])
    copied.compact()
    assert (copied.version, copied.stats().deleted_documents) == (6, 0)
    for index in (copied, Index.open(copied.uri)):
        assert index.manifest.tuned == chosen
        assert index.search(queries) == index.search(queries, **chosen.model_dump())
    easier = copied.tune(queries, 0.4)
    assert easier.settings != chosen
    assert Index.open(copied.uri).manifest.tuned == easier.settings


@pytest.mark.slow
def test_tuning_is_deterministic(library: Index, copied: Index, tmp_path: Path) -> None:
    queries = make_queries(LIBRARY, 8)
    again = Index.open(shutil.copytree(library.uri, tmp_path / "again"))
    for target in (0.7, 0.95, 1.0):
        assert copied.tune(queries, target) == again.tune(queries, target)
    k = copied.tune(queries, 1.0, k=100)
    assert k.settings.n_rescore >= 100
    assert copied.search(queries, 100) == library.exact(queries, 100)


def test_invalid_tuning_is_refused_and_stores_nothing(copied: Index) -> None:
    queries = make_queries(LIBRARY, 5)
    for target in (0, -0.5, 1.5, float("nan"), "0.9", None):
        with pytest.raises(InputError, match=f"target_recall is {target!r}; expected above 0 and at most 1"):
            copied.tune(queries, target)
    with pytest.raises(InputError, match="nothing to tune on; expected at least one query"):
        copied.tune([])
    with pytest.raises(InputError, match="k is 0; expected 1 or more"):
        copied.tune(queries, k=0)
    shard = Index.open(copied.uri, partitions=[copied.manifest.partitions[0].name])
    with pytest.raises(InputError, match="only some partitions are open; open the whole index"):
        shard.tune(queries)
    assert Index.open(copied.uri).version == copied.version == 1
    copied.delete(f"d{number:04d}" for number in range(3000))
    with pytest.raises(InputError, match="nothing to tune on; expected at least one query and one document"):
        copied.tune(queries)


def test_the_cheapest_settings_that_reach_the_target_are_chosen() -> None:
    from raycol.index.search.pipeline import Answer
    from raycol.index.write.tune import cheapest_settings

    exact = [[Hit("a", 2.0), Hit("b", 1.0)]]
    sizes = {"n_centroids": 128, "n_tokens": 100_000, "n_documents": 1000, "query_tokens": 32}

    def choose(target: float, k: int = 2, cost_factor: int = 1) -> tuple[SearchSettings, float]:
        def search(settings: SearchSettings) -> list[Answer]:
            hits = exact[0][: (settings.n_probe >= 8) + (settings.n_rescore >= 128)]
            return [Answer(hits, settings.n_rescore * (cost_factor if settings.n_probe >= 8 else 1))]

        return cheapest_settings(search, exact, target_recall=target, k=k, sizes=sizes)

    assert choose(1.0) == (SearchSettings(n_probe=8, n_rescore=128), 1.0)
    assert choose(0.4) == (SearchSettings(n_probe=8, n_rescore=16), 0.5)
    assert choose(0.4, k=100) == (SearchSettings(n_probe=1, n_rescore=400), 0.5)
    # Rescored documents count towards the cost.
    assert choose(0.4, cost_factor=64) == (SearchSettings(n_probe=1, n_rescore=128), 0.5)
    sizes["n_centroids"] = 4
    with pytest.raises(
        InputError, match=r"up to n_probe 4 .* reach a recall of 1.0; the best is 0.5000; choose a lower"
    ):
        choose(1.0)


def test_a_hit_is_an_id_and_a_score() -> None:
    assert Hit("a", 1.0) == Hit(id="a", score=1.0)


@pytest.mark.parametrize("joined", [1, 3000, 10**6])
@pytest.mark.parametrize("stored", [0, 900, 10**6])
def test_hits_do_not_depend_on_which_partitions_have_lists(
    library: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: int, joined: int
) -> None:
    """Partitions of about 1,000 tokens: all with lists, some, or none; joined one by one, by a few, or all."""
    queries = make_queries(LIBRARY, 5)
    one, _ = build(tmp_path / "one", LIBRARY[:400], n_centroids=50, seed=1)
    monkeypatch.setattr("raycol.index.format.lists.STORED_TOKENS", stored)
    monkeypatch.setattr("raycol.index.search.document_set.JOINED_TOKENS", joined)
    many, _ = build(tmp_path / "many", LIBRARY[:400], n_centroids=50, seed=1, partition_tokens=1000)
    with_lists = [partition.has_lists for partition in many._snapshot.partitions]
    assert len(with_lists) > 4
    assert any(with_lists) == (stored < 10**6)
    assert many.search(queries) == one.search(queries)
    assert many.search(queries, ids=["d7", "d300"]) == one.search(queries, ids=["d7", "d300"])
    for index in (one, many):
        index.append(Document(f"new{n}", array) for n, array in enumerate(LIBRARY[400:420]))
        index.delete(["d0", "d3", "d399", "new4"])
    assert many.search(queries) == one.search(queries) == Index.open(tmp_path / "many").search(queries)
