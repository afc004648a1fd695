"""Mine parts of a synthetic index with pseudo-random embeddings, and compare with a slow reference."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from raycol.data.text_store import Text
from raycol.index import Document, Index
from raycol.index.format.manifest import SplitInfo, commit_manifest
from raycol.mining.candidates import normalize
from raycol.mining.part import MINED_SCHEMA, Miner
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.sources import IndexSource
from raycol.mining.systems import MinedSystem, NegativeRules
from raycol.mining.texts import IndexTexts
from raycol.storage import open_store
from tests.conftest import make_clustered, unit

DIM, DOCUMENTS = 16, 60


class HashEncoder:
    """An encoder with pseudo-random embeddings, seeded by the text."""

    def encode_query(self, texts: Sequence[str], **_: Any) -> list[torch.Tensor]:
        return [torch.from_numpy(embed(text)) for text in texts]

    encode_document = encode_query


def embed(text: str) -> np.ndarray:
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(text.encode()))
    return unit(rng.standard_normal((1 + len(text) % 5, DIM)))


def logit(query: str, document: str) -> float:
    """Logit of a pseudo-random cross-encoder."""
    return xxhash.xxh3_64_intdigest(f"{query}|{document}".encode()) % 1000 / 100


def logits(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    return np.array([logit(*pair) for pair in pairs], dtype=np.float32)


def text_of(number: int) -> str:
    return f"text {number % 50}"  # some texts occur twice


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [
        Document(f"d{number}", tokens, {"title": "", "text": text_of(number)})
        for number, tokens in enumerate(make_clustered(DOCUMENTS, DIM, seed=3))
    ]
    return Index.create(tmp_path_factory.mktemp("part") / "index", documents, n_centroids=16)


def miner(index: Index, rules: NegativeRules, from_rank: int = 1, to_rank: int = 40, **settings: Any) -> Miner:
    system = MinedSystem("index", None, rules, from_rank, to_rank)
    source = IndexSource(system, IndexTexts(index), index, HashEncoder(), batch_size=8)
    return Miner([source], **{"keep_short": False, **settings})


KNOWN = st.integers(0, DOCUMENTS - 1).map(lambda number: Positive("q", f"d{number}", text_of(number)))
BY_TEXT = st.integers(0, DOCUMENTS - 1).map(lambda number: Positive(None, None, text_of(number).upper()))
ELSEWHERE = st.integers(0, 9).map(lambda number: Positive(None, f"e{number}", f"elsewhere {number}"))
QUERIES = st.lists(
    st.builds(
        TrainingQuery,
        st.text("abcdefgh ", min_size=1, max_size=9),
        st.lists(KNOWN | BY_TEXT | ELSEWHERE, min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda query: query.text,
)
RULES = st.builds(
    NegativeRules,
    negatives=st.integers(1, 6),
    margin=st.none() | st.floats(0, 1),
    relative_margin=st.none() | st.floats(0, 0.5),
    min_score=st.none() | st.floats(-1, 1),
    sampling=st.sampled_from(["top", "random"]),
    seed=st.integers(0, 5),
)


@pytest.mark.slow
@given(QUERIES, RULES, st.integers(1, 20), st.booleans(), st.none() | st.floats(0, 3))
def test_every_row_obeys_the_rules(
    index: Index,
    queries: list[TrainingQuery],
    rules: NegativeRules,
    from_rank: int,
    keep_short: bool,
    cross_encoder_margin: float | None,
) -> None:
    cross_encoder = (
        {} if cross_encoder_margin is None else {"cross_encoder": logits, "cross_encoder_margin": cross_encoder_margin}
    )
    mine = miner(index, rules, from_rank, 30, keep_short=keep_short, **cross_encoder)
    table, counts = mine(queries)
    assert table.schema == MINED_SCHEMA
    rows = table.to_pylist()
    by_query = {query.text: query for query in queries}
    for row in rows:
        query = by_query[row["query"]]
        hits = index.search([embed(query.text)], 30)[0]
        rank = {hit.id: position for position, hit in enumerate(hits, start=1)}
        score = {hit.id: np.float32(hit.score) for hit in hits}
        same = {normalize(each.text) for each in query.positives}
        scores = [score_of(index, query.text, each) for each in query.positives]
        ids = row["negative_ids"]
        if ids is None:
            assert row["positive_id"] is None
        else:
            assert not {positive.id for positive in query.positives} & set(ids)
            assert len(set(ids)) == len(ids)
            assert all(from_rank <= rank[id_] <= 30 for id_ in ids)
            assert row["mined_scores"][1:] == [score[id_] for id_ in ids]
            assert row["negatives"] == [text_of(int(id_[1:])) for id_ in ids]
        assert not {normalize(text) for text in row["negatives"]} & same
        assert len(set(row["negatives"])) == len(row["negatives"])
        position = [each.text for each in query.positives].index(row["positive"])
        assert row["mined_scores"][0] == pytest.approx(scores[position], abs=1e-4)
        lowest = min(scores) + 1e-4
        for each in row["mined_scores"][1:]:
            assert rules.margin is None or each <= lowest - rules.margin
            assert rules.relative_margin is None or each <= lowest - abs(min(scores)) * rules.relative_margin
            assert rules.min_score is None or each >= rules.min_score - 1e-6
        assert row["mined_scores"][1:] == sorted(row["mined_scores"][1:], reverse=True)
        if cross_encoder_margin is not None:
            highest = min(np.float32(logit(query.text, each.text)) for each in query.positives) - cross_encoder_margin
            assert all(np.float32(logit(query.text, text)) <= highest for text in row["negatives"])
        few = len(row["negatives"]) < rules.negatives
        assert not few or (keep_short and row["negatives"])
    kept = [query for query in queries if any(row["query"] == query.text for row in rows)]
    assert [(row["query"], row["positive"]) for row in rows] == [
        (query.text, positive.text) for query in kept for positive in query.positives
    ]
    short = sum(n for name, n in counts.items() if name.startswith("short: "))
    assert len(queries) == len(kept) + short - counts["short kept"]
    assert (counts["queries"], counts["rows"]) == (len(queries), len(rows))


def score_of(index: Index, query: str, positive: Positive) -> float:
    """Reference score of a positive: by id, by text, or by its encoded text."""
    hits = index.search([embed(query)], 30)[0]
    if positive.id and positive.id in index:
        return index.rerank([embed(query)], [[positive.id]])[0][0].score
    same = [hit.score for hit in hits if normalize(text_of(int(hit.id[1:]))) == normalize(positive.text)]
    return same[0] if same else float((embed(query) @ embed(positive.text).T).max(1).sum())


@pytest.mark.slow
@given(QUERIES, RULES, st.randoms(use_true_random=False), st.integers(1, 8))
def test_negatives_do_not_depend_on_the_other_queries_of_a_part(
    index: Index, queries: list[TrainingQuery], rules: NegativeRules, random: Any, size: int
) -> None:
    mine = miner(index, rules, cross_encoder=logits)
    whole, counts = mine(queries)
    shuffled = random.sample(queries, len(queries))
    rows, total = [], Counter[str]()
    for start in range(0, len(shuffled), size):
        part, of_part = mine(shuffled[start : start + size])
        rows += part.to_pylist()
        total += of_part
    order = {query.text: number for number, query in enumerate(queries)}
    assert sorted(rows, key=lambda row: order[row["query"]]) == whole.to_pylist()
    assert total == +counts


@pytest.mark.slow
@given(QUERIES, RULES)
def test_the_first_accepted_candidates_are_taken(
    index: Index, queries: list[TrainingQuery], rules: NegativeRules
) -> None:
    """Scoring candidates in rounds gives the same negatives as scoring all of them."""
    everything = miner(index, NegativeRules(**{**vars(rules), "negatives": 40}), keep_short=True)
    mine = miner(index, rules, cross_encoder=logits, keep_short=True)
    all_rows = {(row["query"], row["positive"]): row for row in everything(queries)[0].to_pylist()}
    table, counts = mine(queries)
    for row in table.to_pylist():
        query = next(query for query in queries if query.text == row["query"])
        highest = min(logits([(query.text, positive.text) for positive in query.positives]))
        candidates = all_rows[row["query"], row["positive"]]["negatives"]
        passing = [text for text in candidates if logits([(query.text, text)])[0] <= highest]
        if rules.sampling == "top":
            assert row["negatives"] == passing[: rules.negatives]
        else:
            assert len(row["negatives"]) == min(rules.negatives, len(passing))
            assert set(row["negatives"]) <= set(passing)
    n_positives = sum(len(query.positives) for query in queries)
    assert counts["pairs scored"] <= n_positives + 40 * len(queries)


def test_passages_of_a_split_positive_are_not_negatives(tmp_path: Path) -> None:
    tokens = make_clustered(120, DIM, seed=4)
    # One document of 70 passages, which takes several lookups, and 50 documents of one passage.
    names = [f"long#{number}" for number in range(70)] + [f"d{number}#0" for number in range(50)]
    documents = [
        Document(name, each, {"title": "", "text": f"text of {name}", "parent": name.partition("#")[0]})
        for name, each in zip(names, tokens, strict=True)
    ]
    index = Index.create(tmp_path / "index", documents, n_centroids=16)
    split = index.manifest.model_copy(update={"version": 2, "split": SplitInfo(tokens=8, overlap=0)})
    commit_manifest(open_store(tmp_path / "index"), split)
    index = Index.open(tmp_path / "index")
    query = TrainingQuery("which one", [Positive("q", "long", "all of it"), Positive("q", "d7", "text of d7#0")])
    table, counts = miner(index, NegativeRules(20), to_rank=120)([query])
    rows = table.to_pylist()
    assert counts["left out: positive"] == 71
    assert counts["positives encoded"] == 0
    assert [row["positive_id"] for row in rows] == ["long", "d7"]
    exact = {hit.id: hit.score for hit in index.exact([embed("which one")], 120)[0]}
    assert rows[0]["mined_scores"][0] == max(score for name, score in exact.items() if name.startswith("long#"))
    assert all(not id_.startswith(("long#", "d7#")) for id_ in rows[0]["negative_ids"])


def test_a_document_without_text_is_not_a_negative(tmp_path: Path) -> None:
    documents = [
        Document(f"d{number}", tokens, {"text": None if number % 2 else f"text {number}"})
        for number, tokens in enumerate(make_clustered(20, DIM, seed=5))
    ]
    index = Index.create(tmp_path / "index", documents, columns={"text": "string"})
    assert IndexTexts(index)(["d1", "d2"]) == {"d1": Text("", ""), "d2": Text("", "text 2")}
    table, counts = miner(index, NegativeRules(15), keep_short=True)(
        [TrainingQuery("a", [Positive(None, "d2", "text 2")])]
    )
    assert counts["left out: no_text"] == 10
    assert sorted(table["negatives"].to_pylist()[0]) == sorted(
        f"text {number}" for number in range(0, 20, 2) if number != 2
    )
