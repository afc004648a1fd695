import os
from pathlib import Path

import pytest

from raycol.doctor.shared import put_note, read_notes, remove_notes, try_place


def test_notes_are_read_by_all_and_gone_in_the_end(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert put_note(place, "t") == ""
    for node in ("a", "b/c"):
        facts = try_place(place, "t", node)
        assert facts.problem == ""
        assert facts.room
        assert 0 < facts.room.free <= facts.room.total
    assert read_notes(place, "t", ["a", "b/c"]) == {}
    remove_notes(place, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_elsewhere_is_not_shared(tmp_path: Path) -> None:
    """Two folders stand for one path on two machines."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    put_note(str(here), "t")
    assert "not the shared one" in try_place(str(there), "t", "b").problem
    assert list(there.iterdir()) == []
    put_note(str(there), "other")  # as another doctor's
    assert "not the shared one" in try_place(str(there), "t", "b").problem


def test_what_a_node_wrote_and_others_do_not_see_is_told(tmp_path: Path) -> None:
    put_note(str(tmp_path), "t")
    assert "what it writes cannot be read elsewhere" in read_notes(str(tmp_path), "t", ["a"])["a"]
    try_place(str(tmp_path), "t", "a")
    (folder,) = tmp_path.iterdir()
    for note in folder.iterdir():
        note.write_text("changed")
    assert read_notes(str(tmp_path), "t", ["a"]) == {"a": "what it writes arrives changed"}
    assert try_place(str(tmp_path), "t", "a").problem == "what others write arrives changed"


def test_nothing_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, problem in (("gone", "no such folder"), ("file", "a file, expected a folder")):
        place = str(tmp_path / name)
        assert problem in put_note(place, "t")
        assert try_place(place, "t", "a").problem == problem
    remove_notes(str(tmp_path / "gone"), "t")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert "cannot be written" in put_note("nope://bucket/x", "t")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    put_note(str(tmp_path), "t")
    for folder in (*tmp_path.iterdir(), tmp_path):
        folder.chmod(0o500)
    try:
        assert "cannot be written" in try_place(str(tmp_path), "t", "a").problem
    finally:
        for folder in (tmp_path, *tmp_path.iterdir()):
            folder.chmod(0o700)
