"""Appends merge the small partitions before them, so that their number grows with the logarithm of the appends."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import ConflictError, IndexCorruptError, InputError
from raycol.index import Document, Index
from raycol.index.format.partition import Partition
from raycol.index.write.compact import first_to_merge, merged_tokens
from tests.conftest import make_clustered
from tests.index.test_search import make_queries

BASE = 300
LIBRARY = make_clustered(BASE + 80, 16, seed=4, n_centres=20)


def document(number: int, name: str = "d") -> Document:
    return Document(f"{name}{number}", LIBRARY[number], {"n": number})


def created(root: Path, n: int, **settings: int) -> Index:
    return Index.create(root, (document(number) for number in range(n)), n_centroids=16, **settings)


@given(
    sizes=st.lists(st.sampled_from([1, 5, 30, 300, 4_000, 200_000]), max_size=60),
    most=st.sampled_from([10, 1_000, 10**6]),
)
def test_each_merge_is_bounded_and_each_token_moves_a_few_times(sizes: list[int], most: int) -> None:
    partitions: list[int] = []
    moved = 0
    for size in sizes:
        partitions.append(size)
        first = first_to_merge(partitions, most)
        assert 0 <= first <= len(partitions)
        if first < len(partitions):
            merged = partitions[first:]
            assert len(merged) >= 2
            assert len(merged) >= 8 or 2 * sum(merged) >= most
            assert sum(merged) <= most
            assert all(2 * each < most for each in merged), "large partitions stay"
            partitions[first:] = [sum(merged)]
            moved += sum(merged)
        assert first_to_merge(partitions, most) == len(partitions), "one merge is enough"
    assert moved <= sum(sizes) * (math.log(most, 8) + 2)


@pytest.mark.parametrize("size", [1, 7, 8, 100])
def test_equal_appends_leave_a_number_of_partitions_that_grows_with_their_logarithm(size: int) -> None:
    partitions: list[int] = []
    for number in range(1, 3000):
        partitions.append(size)
        first = first_to_merge(partitions, 10**6)
        partitions[first:] = [sum(partitions[first:])] if first < len(partitions) else []
        assert len(partitions) <= 8 * (1 + math.log(number, 8))
        assert sum(partitions) == number * size


@pytest.mark.parametrize(("base", "size"), [(8, 8), (1000, 1000), (10**6, 20_000), (10**7, 100), (100, 1)])
def test_an_index_that_grows_by_appends_has_few_partitions_whatever_it_began_with(base: int, size: int) -> None:
    """What a merge may become grows with the index, from an eighth of a small one."""
    partitions, moved, appends = [base // 8] * 8, 0, 3000
    for _ in range(appends):
        partitions.append(size)
        most = merged_tokens(sum(partitions), 1 << 20)
        first = first_to_merge(partitions, most)
        if first < len(partitions):
            moved += sum(partitions[first:])
            partitions[first:] = [sum(partitions[first:])]
        assert len(partitions) <= 110 + 2.2 * sum(partitions) / (1 << 20)
    assert moved < 6 * appends * size


@pytest.mark.slow
def test_appends_keep_hits_order_metadata_and_deletes(tmp_path: Path) -> None:
    index = created(tmp_path / "i", BASE)
    for number in range(BASE, BASE + 60):
        index.append([document(number)])
        if number % 9 == 0:
            index.delete([f"d{number - 3}"])
        if number % 10 == 0:
            index.upsert([Document(f"d{number - 5}", LIBRARY[number - 5], {"n": -1})])
    assert len(index.partitions) <= 1 + 8 * 2
    assert Index.open(tmp_path / "i").manifest == index.manifest
    deleted = {f"d{number - 3}" for number in range(BASE, BASE + 60) if number % 9 == 0}
    replaced = {f"d{number - 5}" for number in range(BASE, BASE + 60) if number % 10 == 0}
    live = [f"d{number}" for number in range(BASE + 60) if f"d{number}" not in deleted]
    assert sorted(id_ for partition in index.partitions for id_ in ids_of(partition)) == sorted(live)
    kept = [id_ for id_ in live if id_ not in replaced]
    in_order = [id_ for partition in index.partitions for id_ in ids_of(partition)]
    assert [id_ for id_ in in_order if id_ not in replaced] == kept
    assert {row["n"] for row in index.metadata(sorted(replaced))} == {-1}
    queries = make_queries(LIBRARY, 10)
    before = index.exact(queries, k=20)
    index.compact(10**6)
    assert index.exact(queries, k=20) == before
    assert index.verify() == []


def ids_of(partition: Partition) -> list[str]:
    return partition.ids.take(np.flatnonzero(partition.live_N))


def test_a_merge_leaves_nothing_but_what_versions_need(tmp_path: Path) -> None:
    index = created(tmp_path / "i", BASE)
    for number in range(BASE, BASE + 20):
        index.append([document(number)])
    assert index.verify() == []
    index.vacuum(keep=1)
    folders = {path.name for path in (tmp_path / "i" / "partitions").iterdir()}
    assert folders == {info.name for info in index.manifest.partitions}


@pytest.mark.slow
def test_a_merge_never_exceeds_the_partition_size(tmp_path: Path) -> None:
    index = created(tmp_path / "i", BASE, partition_tokens=100)
    for number in range(BASE, BASE + 60):
        index.append([document(number)])
    merged = [info for info in index.manifest.partitions[1:] if info.documents > 1]
    assert any(info.tokens > 50 for info in merged)
    assert all(info.tokens <= 100 + len(LIBRARY[0]) for info in index.manifest.partitions[3:])


def test_the_same_appends_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        index = created(tmp_path / name, BASE)
        for number in range(BASE, BASE + 20):
            index.append([document(number)])
    assert Index.open(tmp_path / "a").manifest == Index.open(tmp_path / "b").manifest


def before_a_merge(root: Path) -> tuple[Path, int]:
    """Return an index, and the next document whose append merges partitions."""
    index = created(root, BASE)
    for number in range(BASE, BASE + 60):
        copy = shutil.copytree(root, root.with_name(f"before-{number}"))
        n_partitions = len(index.partitions)
        index.append([document(number)])
        if len(index.partitions) <= n_partitions:
            return copy, number
    raise AssertionError("nothing was merged")


def test_of_two_writers_that_merge_one_commits(tmp_path: Path) -> None:
    root, number = before_a_merge(tmp_path / "i")
    one, other = Index.open(root), Index.open(root)
    one.append([document(number)])
    with pytest.raises(ConflictError):
        other.append([document(number + 1)])
    index = Index.open(root)
    index.append([document(number + 1)])
    assert {f"d{n}" for n in range(number + 2)} == {id_ for partition in index.partitions for id_ in ids_of(partition)}
    assert not [line for line in index.verify() if "in no manifest" not in line]


def test_a_merge_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    root, number = before_a_merge(tmp_path / "i")
    names = sorted(path.name for path in (root / "manifests").iterdir())
    damaged = root / "partitions" / Index.open(root).manifest.partitions[-2].name / "partition.bin"
    content = damaged.read_bytes()
    damaged.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(IndexCorruptError, match=str(damaged)):
        Index.open(root).append([document(number)])
    assert sorted(path.name for path in (root / "manifests").iterdir()) == names
    damaged.write_bytes(content)
    Index.open(root).append([document(number)])
    assert len(Index.open(root)) == number + 1


def test_an_append_to_a_full_manifest_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = created(tmp_path / "i", BASE, partition_tokens=100)
    monkeypatch.setattr("raycol.index.format.manifest.MAX_MANIFEST_BYTES", index.manifest.size + 1000)

    def unread() -> Iterator[Document]:
        raise AssertionError("documents were read")
        yield

    with pytest.raises(
        InputError, match=rf"manifest of {len(index.partitions)} partitions takes .* compact the index"
    ):
        index.append(unread())
    index.delete(["d0"])
    index.compact(10**6)
    monkeypatch.setattr("raycol.index.format.manifest.MAX_MANIFEST_BYTES", index.manifest.size + (1 << 17))
    index.append([document(BASE)])
    assert len(Index.open(tmp_path / "i")) == BASE


def test_a_trusted_index_does_not_give_damage_a_valid_checksum(tmp_path: Path) -> None:
    root, number = before_a_merge(tmp_path / "i")
    damaged = root / "partitions" / Index.open(root).manifest.partitions[-2].name / "partition.bin"
    content = damaged.read_bytes()
    damaged.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    trusted = Index.open(root, trust=True)
    for change in (lambda: trusted.append([document(number)]), lambda: trusted.compact(10**6)):
        with pytest.raises(IndexCorruptError, match=str(damaged)):
            change()


def test_an_upsert_that_merges_leaves_nothing_behind(tmp_path: Path) -> None:
    root, number = before_a_merge(tmp_path / "i")
    index = Index.open(root)
    index.upsert([document(number), document(number - 1), document(3)])
    assert index.verify() == []
    assert len(Index.open(root)) == number + 1
