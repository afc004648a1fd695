import os
from pathlib import Path

import pytest

from raycol.doctor.shared import check_from_node, read_markers, remove_markers, write_marker


def test_markers_are_read_by_all_and_removed(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert write_marker(folder, "t") == ""
    for node in ("a", "b/c"):
        facts = check_from_node(folder, "t", node)
        assert facts.problem == ""
        assert facts.usage
        assert 0 < facts.usage.free <= facts.usage.total
    assert read_markers(folder, "t", ["a", "b/c"]) == {}
    remove_markers(folder, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_on_another_disk_is_not_shared(tmp_path: Path) -> None:
    """Two folders stand for one path on two machines."""
    driver, other = tmp_path / "driver", tmp_path / "other"
    driver.mkdir()
    other.mkdir()
    write_marker(str(driver), "t")
    assert "not shared" in check_from_node(str(other), "t", "b").problem
    assert list(other.iterdir()) == []
    write_marker(str(other), "another token")  # as of another doctor run
    assert "not shared" in check_from_node(str(other), "t", "b").problem


def test_a_missing_or_changed_marker_is_reported(tmp_path: Path) -> None:
    write_marker(str(tmp_path), "t")
    assert "its file cannot be read on the driver" in read_markers(str(tmp_path), "t", ["a"])["a"]
    check_from_node(str(tmp_path), "t", "a")
    (folder,) = tmp_path.iterdir()
    for marker in folder.iterdir():
        marker.write_text("changed")
    assert read_markers(str(tmp_path), "t", ["a"]) == {"a": "its file reads back changed on the driver"}
    assert check_from_node(str(tmp_path), "t", "a").problem == "the driver's file reads back changed"


def test_missing_folders_are_not_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, problem in (("missing", "no such folder"), ("file", "a file, expected a folder")):
        uri = str(tmp_path / name)
        assert problem in write_marker(uri, "t")
        assert check_from_node(uri, "t", "a").problem == problem
    remove_markers(str(tmp_path / "missing"), "t")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert "cannot be written" in write_marker("nope://bucket/x", "t")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    write_marker(str(tmp_path), "t")
    for folder in (*tmp_path.iterdir(), tmp_path):
        folder.chmod(0o500)
    try:
        assert "cannot be written" in check_from_node(str(tmp_path), "t", "a").problem
    finally:
        for folder in (tmp_path, *tmp_path.iterdir()):
            folder.chmod(0o700)
