"""Texts by id in an SQLite file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data.text_store import Duplicate, Text, TextStore, TextWriter
from raycol.errors import RaycolError

strings = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(strings, st.tuples(strings, strings), max_size=30))
def test_any_text_is_found_unchanged(texts: dict[str, tuple[str, str]]) -> None:
    writer = TextWriter("source")
    for id_, (title, text) in texts.items():
        writer.add(id_, Text(title, text))
    store, duplicates = writer.finish()
    assert store.find([*texts]) == {id_: Text(*text) for id_, text in texts.items()}
    assert not duplicates


def test_a_file_is_read_by_another_connection(tmp_path: Path) -> None:
    writer = TextWriter("a corpus", tmp_path / "texts.sqlite")
    for number in range(2500):
        writer.add(str(number), Text("", f"text {number}"))
    writer.finish()
    store = TextStore.open(tmp_path / "texts.sqlite")
    assert store.name == "a corpus"
    # More ids than one statement takes, some of them unknown.
    found = store.find([str(number) for number in range(1000, 3000)])
    assert found == {str(number): Text("", f"text {number}") for number in range(1000, 2500)}


def test_the_first_text_of_an_id_is_kept_and_the_others_are_reported() -> None:
    writer = TextWriter("source")
    for number, id_ in enumerate(["b", "a", "b", "c", "a", "b"], start=1):
        writer.add(id_, Text("", f"text {number}"), number % 2, number)
    store, duplicates = writer.finish()
    assert duplicates == [Duplicate("b", 1, 3, 1, 1), Duplicate("a", 1, 5, 0, 2), Duplicate("b", 0, 6, 1, 1)]
    assert {id_: text.text for id_, text in store.find("abc").items()} == {"a": "text 2", "b": "text 1", "c": "text 4"}


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "texts.sqlite"
    with pytest.raises(RaycolError, match=rf"^{path}: cannot be written \(unable to open database file\)"):
        TextWriter("source", path)
