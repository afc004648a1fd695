"""Replacing a finished result: the old one stays until the new one is complete."""

from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.storage.replacing import record_files, replacing, unrecorded_files


def beside_result(folder: Path) -> set[str] | None:
    names = {path.name for path in folder.iterdir()}
    return names - {"result"} if "result" in names else None


def write(location: str, content: str) -> None:
    Path(location).mkdir(parents=True, exist_ok=True)
    (Path(location) / "result").write_text(content)


def write_half(location: str) -> None:
    write(location, "half")
    raise InputError("bad input")


def test_a_new_result_is_written_in_place(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with replacing(out, "a result", beside_result) as location:
        assert location == out
        write(location, "new")


def test_the_old_result_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(str(out), "old")
    with replacing(str(out), "a result", beside_result) as location:
        assert Path(location).name == "out"
        write(location, "new")
        assert (out / "result").read_text() == "old"
    assert (out / "result").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_keeps_the_old_result_and_what_is_finished_of_the_new(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(str(out), "old")
    with (
        pytest.raises(InputError, match="bad input"),
        replacing(str(out), "a result", beside_result) as location,
    ):
        write_half(location)
    assert (out / "result").read_text() == "old"
    with replacing(str(out), "a result", beside_result) as location:
        assert (Path(location) / "result").read_text() == "half"
        write(location, "whole")
    assert (out / "result").read_text() == "whole"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write(str(tmp_path / "disk" / "out"), "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    with replacing(str(tmp_path / "out"), "a result", beside_result) as location:
        write(location, "new")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "out" / "result").read_text() == "new"


def test_a_folder_with_other_files_is_refused_by_their_names(tmp_path: Path) -> None:
    write(str(tmp_path), "old")
    for number in range(7):
        (tmp_path / f"note {number}").write_text("mine")
    with (
        pytest.raises(InputError, match=r"did not write, note 0, note 1, .*, note 4 and 2 more, so it is not"),
        replacing(str(tmp_path), "a result", beside_result),
    ):
        pass
    assert len(list(tmp_path.iterdir())) == 8


def test_files_beside_the_recorded_ones_are_found(tmp_path: Path) -> None:
    assert unrecorded_files(tmp_path, "details/files.txt") is None
    (tmp_path / "details").mkdir()
    (tmp_path / "weights").write_text("0")
    record_files(tmp_path, "details/files.txt")
    assert unrecorded_files(tmp_path, "details/files.txt") == set()
    (tmp_path / "details" / "my notes.md").write_text("mine")
    (tmp_path / "link").symlink_to("gone")
    assert unrecorded_files(tmp_path, "details/files.txt") == {"details/my notes.md", "link"}


def test_foreign_folders_and_object_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(InputError, match="is not a result that raycol has finished"),
        replacing(str(tmp_path / "out"), "a result", beside_result),
    ):
        pass
    with (
        pytest.raises(InputError, match="expected a local folder"),
        replacing("s3://b/out", "a result", beside_result),
    ):
        pass
