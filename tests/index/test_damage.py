"""`verify`, opening and searching detect every kind of damage to the files of an index."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from raycol.errors import IndexCorruptError, InputError, RaycolError
from raycol.index import Index
from raycol.index.write.verify import verify_index
from raycol.storage import open_store
from tests.conftest import tries_all
from tests.index.forging import current_files, newest_manifest, queries

T = TypeVar("T")

SEARCH = {"n_probe": 2, "n_rescore": 2, "k": 2}

# These check all files of all partitions before they read tokens.
SEARCHES: dict[str, Callable[[Index], Any]] = {
    "search": lambda index: index.search(queries(), **SEARCH),
    "exact": lambda index: index.exact(queries(), k=20),
    "filter": lambda index: index.search(queries(), filter="n >= 3"),
    "ids": lambda index: index.search(queries(), ids=["d3", "d8"]),
    "no documents": lambda index: index.search(queries(), ids=[]),
    "unknown document": lambda index: index.search(queries(), ids=["nobody"]),
}
# These check only the files that they read: the answer is correct, or `IndexCorruptError`.
LOOKUPS: dict[str, Callable[[Index], Any]] = {
    "reconstruct": lambda index: index.reconstruct("d3").tolist(),
    "metadata": lambda index: index.metadata(["d3", "d9"]),
    "contains": lambda index: ("d3" in index, "nobody" in index),
}
USES = SEARCHES | LOOKUPS


def flips(position: Callable[[int], int]) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        offset = position(len(content))
        changed[offset] ^= 1 << offset % 8
        return bytes(changed)

    return flip


def random_position(seed: int) -> Callable[[int], int]:
    return lambda length: int(np.random.default_rng([seed, length]).integers(length))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first byte": flips(lambda length: 0),
    "last byte": flips(lambda length: length - 1),
    **{f"random byte {seed}": flips(random_position(seed)) for seed in range(4)},
    "shorter by one": lambda content: content[:-1],
    "empty": lambda content: b"",
    "longer by one": lambda content: content + b"\0",
}


def sampled(files: Sequence[T], damage: Callable[[bytes], bytes] | None) -> Sequence[T]:
    """Return all files with the profile `long`, otherwise every third, from a start that depends on the damage."""
    kinds = [*DAMAGE.values(), None]
    return files if tries_all() else files[kinds.index(damage) % 3 :: 3]


@contextmanager
def replaced(path: Path, content: bytes | None = None) -> Iterator[None]:
    """Replace or remove a file temporarily. Writes a new file, because the old one may be memory-mapped."""
    original = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    yield
    path.unlink(missing_ok=True)
    path.write_bytes(original)


@contextmanager
def takes_seconds() -> Iterator[None]:
    """Assert that the block takes less than 5 seconds; it takes less than 1 on an idle machine."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 5


def verify(root: Path) -> list[str]:
    return verify_index(open_store(root))


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def check_named(root: Path, path: Path, lines: list[str]) -> None:
    """Assert that one line names the file; a damaged manifest may also leave folders that no manifest names."""
    assert sum(line.startswith(f"{path}: ") for line in lines) == 1, (path, lines)
    others = [line for line in lines if not line.startswith(f"{path}: ")]
    if path.parent.name != "manifests":
        assert others == []
    assert all("in no manifest" in line for line in others), others


def test_an_undamaged_index_verifies(root: Path) -> None:
    assert len(files_of(root)) == 3 + 3 * 1 + 3 + 4
    assert verify(root) == []
    assert Index.open(root).verify() == []


@pytest.mark.sampled
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_of_any_version_is_named(root: Path, damage: Callable[[bytes], bytes]) -> None:
    for path in sampled(files_of(root), damage):
        with replaced(path, damage(path.read_bytes())):
            check_named(root, path, verify(root))
    assert verify(root) == []


def test_a_missing_file_is_named(root: Path) -> None:
    for path in files_of(root):
        if path.parent.name != "manifests":
            with replaced(path):
                assert verify(root) == [f"{path}: missing"]


def test_a_missing_manifest_between_others_is_named(root: Path) -> None:
    for version in (2, 3):
        path = root / "manifests" / f"{version:08d}.json"
        with replaced(path):
            assert any(line.startswith(f"{path}: ") for line in verify(root)), version


def test_without_the_newest_manifest_the_previous_version_opens(root: Path) -> None:
    before = Index.open(root, version=3).exact(queries())
    orphan = {path.parent for path in (root / "deletes").glob("00000003-*/positions.npy")}
    newest_manifest(root).unlink()
    assert Index.open(root).exact(queries()) == before
    assert {Path(line.split(": ")[0]).parent for line in verify(root)} == orphan


def test_a_missing_oldest_manifest_is_no_damage(root: Path) -> None:
    (root / "manifests" / "00000001.json").unlink()
    assert verify(root) == []


def test_verify_names_every_damaged_manifest(root: Path) -> None:
    paths = sorted((root / "manifests").iterdir())
    for path in paths:
        path.write_bytes(b"")
    lines = verify(root)
    assert [line.split(": ")[0] for line in lines[:4]] == [str(path) for path in paths]
    with pytest.raises(IndexCorruptError, match=r"00000004\.json"):
        Index.open(root)


def test_earlier_versions_open_despite_a_damaged_manifest(root: Path) -> None:
    before = Index.open(root, version=3).exact(queries())
    newest_manifest(root).write_bytes(b"{}")
    with pytest.raises(IndexCorruptError, match=r"00000004\.json: not a manifest"):
        Index.open(root)
    assert Index.open(root, version=3).exact(queries()) == before


@pytest.mark.parametrize(
    "name",
    [
        "extra",
        ".hidden",
        "manifests/extra",
        "manifests/00000001.json.bak",
        "manifests/000000001.json",
        "manifests/more/00000001.json",
        "{partition}/extra.bin",
        "{partition}/.partition.bin",
        "{partition}/deeper/partition.bin",
        "partitions/extra",
        "partitions/other/partition.bin",
        "codebooks/other/centroids.npy",
        "deletes/other/positions.npy",
        "builds/journal.json",
        "new/folder/file",
        "00000004-unfinished-0/part",
    ],
)
def test_an_extra_file_is_named(root: Path, name: str) -> None:
    extra = root / name.format(partition=next((root / "partitions").iterdir()).relative_to(root))
    extra.parent.mkdir(parents=True, exist_ok=True)
    extra.write_bytes(b"x")
    assert [line.split(": ")[0] for line in verify(root)] == [str(extra)]
    assert len(Index.open(root).exact(queries(), k=20)[0]) == 9


def test_an_extra_link_or_pipe_is_named(root: Path) -> None:
    (root / "partitions" / "link").symlink_to(root / "codebooks")
    os.mkfifo(root / "pipe")
    assert {line.split(": ")[0] for line in verify(root)} == {str(root / "partitions" / "link"), str(root / "pipe")}


@pytest.mark.sampled
@pytest.mark.parametrize("damage", [*DAMAGE.values(), None], ids=[*DAMAGE.keys(), "missing"])
def test_a_damaged_file_is_never_searched(root: Path, damage: Callable[[bytes], bytes] | None) -> None:
    expected = {name: lookup(Index.open(root)) for name, lookup in LOOKUPS.items()}
    for name in sampled(current_files(root), damage):
        with replaced(root / name, damage((root / name).read_bytes()) if damage else None):
            try:
                index = Index.open(root)
            except IndexCorruptError as error:
                messages = [str(error)]
            else:
                messages = [refusal(index, search) for search in SEARCHES.values()]
                for kind, lookup in LOOKUPS.items():
                    with suppress(IndexCorruptError):
                        assert lookup(index) == expected[kind]
            assert all(str(root / name) in message for message in messages)


def refusal(index: Index, search: Callable[[Index], Any]) -> str:
    """Return the message of the `IndexCorruptError` that a search raises."""
    with pytest.raises(IndexCorruptError) as caught:
        search(index)
    return str(caught.value)


def test_a_file_damaged_after_opening_is_never_searched(root: Path) -> None:
    for name in current_files(root):
        if name.startswith("partitions/"):
            index = Index.open(root)
            with replaced(root / name, DAMAGE["last byte"]((root / name).read_bytes())):
                assert all(str(root / name) in refusal(index, search) for search in SEARCHES.values())


@pytest.mark.sampled
@pytest.mark.slow
def test_a_damaged_trusted_index_gives_hits_or_an_error(root: Path) -> None:
    for damage in (*DAMAGE.values(), None):
        for name in sampled(current_files(root), damage):
            content = damage((root / name).read_bytes()) if damage else None
            with replaced(root / name, content), suppress(RaycolError):
                index = Index.open(root, trust=True)
                for use in USES.values():
                    with suppress(RaycolError):
                        use(index)


def link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def pipe(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


def empty_folder(path: Path, elsewhere: Path) -> None:
    path.mkdir()


def dangling_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def link_to_itself(path: Path, elsewhere: Path) -> None:
    path.symlink_to(path)


def link_to_a_device(path: Path, elsewhere: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL_FILES = [link, pipe, empty_folder, dangling_link, link_to_itself, link_to_a_device]


@contextmanager
def special_file_at(path: Path, aside: Path, special: Callable[[Path, Path], None]) -> Iterator[None]:
    """Put a special file in place of a file or folder, which is moved to `aside` for the time."""
    path.rename(aside)
    special(path, aside)
    yield
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    aside.rename(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", SPECIAL_FILES)
def test_only_regular_files_are_read(root: Path, tmp_path: Path, special: Callable[[Path, Path], None]) -> None:
    for path in [root / name for name in current_files(root)] + [newest_manifest(root)]:
        with special_file_at(path, tmp_path / "aside", special):
            with takes_seconds(), pytest.raises(IndexCorruptError, match=path.name):
                Index.open(root).search(queries())
            with takes_seconds():
                assert any(line.startswith(f"{path}: ") for line in verify(root))
    assert verify(root) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", SPECIAL_FILES)
@pytest.mark.parametrize("folder", ["partitions", "partitions/*", "codebooks", "codebooks/*", "deletes", "deletes/*"])
def test_only_regular_folders_are_read(
    root: Path, tmp_path: Path, folder: str, special: Callable[[Path, Path], None]
) -> None:
    for path in sorted(root.glob(folder)):
        if path.name.startswith("00000002-"):  # deletes that version 4 does not use
            continue
        with special_file_at(path, tmp_path / "aside", special):
            with takes_seconds(), pytest.raises(IndexCorruptError, match=str(path)):
                Index.open(root).search(queries())
            with takes_seconds():
                assert any(line.startswith(str(path)) for line in verify(root))
    assert verify(root) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", SPECIAL_FILES)
def test_a_special_file_in_place_of_a_folder_is_an_error(
    root: Path, tmp_path: Path, special: Callable[[Path, Path], None]
) -> None:
    with special_file_at(root / "manifests", tmp_path / "aside", special), takes_seconds():
        with pytest.raises((IndexCorruptError, InputError), match=str(root)):
            Index.open(root)
        with suppress(InputError):
            assert verify(root) != []
    with special_file_at(root, tmp_path / "aside", special), takes_seconds():
        if special is not link:
            with pytest.raises(InputError, match=str(root)):
                Index.open(root)
            with pytest.raises(InputError, match=str(root)):
                verify(root)


def test_an_index_may_be_opened_through_a_symlink(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert Index.open(tmp_path / "link").exact(queries()) == Index.open(root).exact(queries())
    assert verify(tmp_path / "link") == []


@pytest.mark.skipif(sys.platform != "linux", reason="counts file descriptors in /proc")
def test_an_open_index_holds_no_file_descriptors(root: Path, tmp_path: Path) -> None:
    """A process may open about a thousand files, and an index may have more partitions."""
    before = len(os.listdir("/proc/self/fd"))
    index = Index.open(root)
    index.search(queries())
    assert len(os.listdir("/proc/self/fd")) == before
    for path in (newest_manifest(root), root / current_files(root)[-1]):
        with special_file_at(path, tmp_path / "aside", empty_folder), pytest.raises(IndexCorruptError):
            Index.open(root)
    assert len(os.listdir("/proc/self/fd")) == before
