"""The record of the version to serve."""

import pytest

from raycol.errors import IndexCorruptError
from raycol.index.storage import Store
from raycol.serving.pin import current_version, read_pin, starting_version, write_pin


def test_without_a_choice_an_endpoint_starts_with_what_it_is_told(store: Store) -> None:
    assert starting_version(store, None) == (None, 0)
    assert starting_version(store, 2) == (2, 0)
    assert current_version(store, 2, 0) == 2


def test_an_endpoint_starts_with_what_was_chosen_unless_it_is_told_another(store: Store) -> None:
    chosen = write_pin(store, 1, newest=False)
    assert starting_version(store, None) == (1, chosen.at)
    assert starting_version(store, 2) == (2, chosen.at)
    write_pin(store, 2, newest=True)
    assert starting_version(store, None)[0] is None


def test_a_part_that_starts_again_goes_by_what_was_chosen_since(store: Store) -> None:
    _, seen = starting_version(store, None)
    for version, newest in ((1, False), (3, True)):
        write_pin(store, version, newest=newest)
        assert current_version(store, 2, seen) == version
    _, seen = starting_version(store, 2)
    assert current_version(store, 2, seen) == 2
    # The same once more is a choice, too.
    write_pin(store, 3, newest=True)
    assert current_version(store, 2, seen) == 3


def test_a_choice_that_is_gone_or_cannot_be_read_is_none(store: Store) -> None:
    write_pin(store, 9, newest=False)
    assert starting_version(store, None)[0] is None
    assert current_version(store, 2, 0) == 2
    for content in (b"", b'{"version": 1}', b'{"version": 0, "newest": true, "at": 1}', b"a" * 2000):
        store.write("served.json", content)
        assert current_version(store, 2, 0) == 2
        with pytest.raises(IndexCorruptError, match=r"served\.json"):
            read_pin(store)
