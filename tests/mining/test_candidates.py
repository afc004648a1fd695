"""Property-based tests of the selection of negatives, over arbitrary hits, texts and rules."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raycol.data.text_store import Text
from raycol.index import Hit
from raycol.mining.candidates import (
    Exclusions,
    eligible_hits,
    normalize,
    sampling_order,
    score_limits,
    text_rejection,
)
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.systems import NegativeRules

WORDS = st.sampled_from(["", "rain", "Rain", "rain  wind", "RAIN wind", "snow", "fog", "fog "])
MARGINS = st.none() | st.floats(0, 3)
RULES = st.builds(
    NegativeRules,
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
        st.builds(Positive, st.none(), st.none() | st.sampled_from(["d0", "d3", "d5"]), WORDS), min_size=1, max_size=3
    ),
    other_ids=st.lists(st.just("d1")),
    other_texts=st.lists(st.just("snow")),
)


@given(HITS, QUERIES, st.floats(-5, 5), RULES, st.booleans())
def test_eligible_hits_obey_ids_and_score_bounds(
    hits: list[Hit], query: TrainingQuery, positive: float, rules: NegativeRules, split: bool
) -> None:
    if split:
        hits = [Hit(f"{hit.id}#{number % 3}", hit.score) for number, hit in enumerate(hits)]
    left_out: Counter[str] = Counter()
    eligible = eligible_hits(hits, Exclusions.of(query), positive, rules, left_out, split=split)
    assert len(eligible) + left_out.total() == len(hits)
    own = {each.id for each in query.positives} | set(query.other_ids)

    def allowed(hit: Hit) -> bool:
        return (
            hit.id.partition("#")[0] not in own
            and (rules.margin is None or hit.score <= positive - rules.margin)
            and (rules.relative_margin is None or hit.score <= positive - abs(positive) * rules.relative_margin)
            and (rules.max_score is None or hit.score <= rules.max_score)
            and (rules.min_score is None or hit.score >= rules.min_score)
        )

    assert eligible == [hit for hit in hits if allowed(hit)]


@given(st.builds(Text, title=st.sampled_from(["", "fog"]), text=WORDS), QUERIES, st.sets(WORDS.map(normalize)))
def test_texts_of_the_query_positives_and_seen_hits_are_rejected(
    text: Text, query: TrainingQuery, taken: set[str]
) -> None:
    same = {normalize(each) for each in [query.text, *query.other_texts, *(each.text for each in query.positives)]}
    whole = normalize(text.content)
    allowed = whole and whole not in taken and not {whole, normalize(text.text)} & same
    assert (text_rejection(text, Exclusions.of(query), taken) is None) == bool(allowed)


def test_a_relative_margin_is_a_share_of_the_absolute_score() -> None:
    rules = NegativeRules(1, margin=0.5, relative_margin=0.25, max_score=7.0)
    assert score_limits(8.0, rules) == {"margin": 7.5, "relative_margin": 6.0, "max_score": 7.0}
    assert score_limits(-8.0, rules) == {"margin": -8.5, "relative_margin": -10.0, "max_score": 7.0}


@given(st.integers(0, 30), st.integers(0, 2**70), st.text())
def test_sampling_depends_on_the_seed_and_the_query(n: int, seed: int, query: str) -> None:
    hits = [Hit(f"d{number}", -number) for number in range(n)]
    turn = sampling_order(hits, NegativeRules(1, sampling="random", seed=seed), query)
    assert sorted(turn, key=lambda each: -each.score) == hits
    assert turn == sampling_order(hits, NegativeRules(1, sampling="random", seed=seed), query)
    assert sampling_order(hits, NegativeRules(1), query) == hits


def test_sampling_differs_between_queries_and_seeds() -> None:
    hits = [Hit(f"d{number}", -number) for number in range(30)]
    turns = {
        tuple(each.id for each in sampling_order(hits, NegativeRules(1, sampling="random", seed=seed), query))
        for seed in range(3)
        for query in ("a", "b", "c")
    }
    assert len(turns) == 9
    firsts = Counter(sampling_order(hits, NegativeRules(1, sampling="random"), str(n))[0].id for n in range(3000))
    assert min(firsts.values()) > 50
    assert len(firsts) == 30
