"""Room on a cluster: refused, or asked for and waited for."""

from hypothesis import given
from hypothesis import strategies as st

from raycol.distributed.capacity import lacking

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "spot"]), st.floats(0, 100))


@given(AMOUNTS, st.integers(1, 50), AMOUNTS)
def test_with_what_is_lacking_there_is_room(have: dict[str, float], workers: int, each: dict[str, float]) -> None:
    short = lacking(have, workers, each)
    assert all(amount > 0 for amount in short.values())
    more = {name: have.get(name, 0.0) + short.get(name, 0.0) + 1e-6 for name in each}
    assert lacking(more, workers, each) == {}
    assert {name for name in each if each[name] * workers > have.get(name, 0.0)} == set(short)
