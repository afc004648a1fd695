"""Which hits may be negatives, as properties over any hits, texts and rules."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raycol.index import Hit
from raycol.mining.candidates import Candidate, Own, Rules, find_candidates, folded, in_turn, limits
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Text

WORDS = st.sampled_from(["", "rain", "Rain", "rain  wind", "RAIN wind", "snow", "fog", "fog "])
TEXTS = st.builds(Text, title=st.sampled_from(["", "fog"]), text=WORDS, parent=st.sampled_from([None, "p0", "p1"]))
MARGINS = st.none() | st.floats(0, 3)
RULES = st.builds(
    Rules,
    negatives=st.integers(1, 5),
    margin=MARGINS,
    relative_margin=st.none() | st.floats(0, 1),
    max_score=st.none() | st.floats(-5, 5),
    min_score=st.none() | st.floats(-5, 5),
    sampling=st.sampled_from(["top", "random"]),
    seed=st.integers(-(2**70), 2**70),
)
HITS = st.lists(st.floats(-5, 5), max_size=12).map(
    lambda scores: [Hit(f"d{number}", score) for number, score in enumerate(sorted(scores, reverse=True))]
)
QUERIES = st.builds(
    TrainingQuery,
    text=WORDS,
    positives=st.lists(
        st.builds(Positive, st.none(), st.none() | st.sampled_from(["d0", "d3", "p1"]), WORDS), min_size=1, max_size=3
    ),
    other_ids=st.lists(st.just("d1")),
    other_texts=st.lists(st.just("snow")),
)


@given(HITS, st.data(), QUERIES, st.floats(-5, 5), RULES)
def test_candidates_are_what_may_be_a_negative(
    hits: list[Hit], data: st.DataObject, query: TrainingQuery, positive: float, rules: Rules
) -> None:
    texts = {hit.id: data.draw(TEXTS) for hit in hits}
    left_out: Counter[str] = Counter()
    found = find_candidates(hits, texts, Own.of(query), positive, rules, left_out)
    assert len(found) + left_out.total() == len(hits)
    assert [each.id for each in found] == [hit.id for hit in hits if hit.id in {each.id for each in found}]
    assert len({folded(each.text) for each in found}) == len(found)
    own = {positive.id for positive in query.positives} | set(query.other_ids)
    same = {folded(text) for text in [query.text, *query.other_texts, *(each.text for each in query.positives)]}
    for each in found:
        text = texts[each.id]
        assert each.text == text.content
        assert not {each.id, text.parent} & (own - {None})
        assert not {folded(text.text), folded(text.content)} & same
        assert each.text.strip()
        assert rules.margin is None or each.score <= positive - rules.margin
        assert rules.relative_margin is None or each.score <= positive - abs(positive) * rules.relative_margin
        assert rules.max_score is None or each.score <= rules.max_score
        assert rules.min_score is None or each.score >= rules.min_score


@given(HITS)
def test_with_no_rules_every_other_hit_may_be_one(hits: list[Hit]) -> None:
    texts = {hit.id: Text("", f"text {hit.id}") for hit in hits}
    query = TrainingQuery("q", [Positive(None, "d2", "text of it")])
    found = find_candidates(hits, texts, Own.of(query), -9.0, Rules(3), Counter())
    assert [each.id for each in found] == [hit.id for hit in hits if hit.id != "d2"]


def test_a_relative_margin_is_of_the_size_of_the_score_as_in_sentence_transformers() -> None:
    rules = Rules(1, margin=0.5, relative_margin=0.25, max_score=7.0)
    assert limits(8.0, rules) == {"margin": 7.5, "relative_margin": 6.0, "max_score": 7.0}
    assert limits(-8.0, rules) == {"margin": -8.5, "relative_margin": -10.0, "max_score": 7.0}


@given(st.integers(0, 30), st.integers(0, 2**70), st.text())
def test_chance_is_of_the_seed_and_the_query(n: int, seed: int, query: str) -> None:
    candidates = [Candidate(f"d{number}", "", -number) for number in range(n)]
    turn = in_turn(candidates, Rules(1, sampling="random", seed=seed), query)
    assert sorted(turn, key=lambda each: -each.score) == candidates
    assert turn == in_turn(candidates, Rules(1, sampling="random", seed=seed), query)
    assert in_turn(candidates, Rules(1), query) == candidates


def test_queries_and_seeds_differ_in_their_chances() -> None:
    candidates = [Candidate(f"d{number}", "", -number) for number in range(30)]
    turns = {
        tuple(each.id for each in in_turn(candidates, Rules(1, sampling="random", seed=seed), query))
        for seed in range(3)
        for query in ("a", "b", "c")
    }
    assert len(turns) == 9
    firsts = Counter(in_turn(candidates, Rules(1, sampling="random"), str(n))[0].id for n in range(3000))
    assert min(firsts.values()) > 50
    assert len(firsts) == 30
