"""The missing resources of a cluster."""

from hypothesis import given
from hypothesis import strategies as st

from raycol.distributed.capacity import missing_resources

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "spot"]), st.floats(0, 100))


@given(AMOUNTS, st.integers(1, 50), AMOUNTS)
def test_adding_the_missing_resources_gives_enough_capacity(
    available: dict[str, float], workers: int, resources: dict[str, float]
) -> None:
    missing = missing_resources(available, workers, resources)
    assert all(amount > 0 for amount in missing.values())
    more = {name: available.get(name, 0.0) + missing.get(name, 0.0) + 1e-6 for name in resources}
    assert missing_resources(more, workers, resources) == {}
    assert {name for name in resources if resources[name] * workers > available.get(name, 0.0)} == set(missing)
