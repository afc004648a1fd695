"""`raycol index migrate` writes an index of format version 2 in the present format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import raycol
from raycol.errors import IndexCorruptError, InputError
from raycol.index import Index
from tests.cli.test_bad_input import run
from tests.index.forging import queries, small_documents, small_index
from tests.index.version_2 import damage, rewrite_as_version_2


def test_a_migrated_index_has_the_same_hits_scores_and_metadata(root: Path, tmp_path: Path) -> None:
    before = Index.open(root)
    found = before.search(queries()), before.exact(queries(), k=20), before.search(queries(), filter="n >= 3")
    live = [document.id for document in small_documents(0, 12) if document.id in before]
    metadata, manifest = before.metadata(live), before.manifest
    embeddings = [before.reconstruct(id_) for id_ in live]
    rewrite_as_version_2(root)
    with pytest.raises(InputError, match=r"format version 2; expected version 3\. Rewrite it with: raycol index mig"):
        Index.open(root)
    assert raycol.migrate_index(root, tmp_path / "new").documents == 9
    after = Index.open(tmp_path / "new")
    assert (after.search(queries()), after.exact(queries(), k=20), after.search(queries(), filter="n >= 3")) == found
    assert after.metadata(live) == metadata
    assert all(np.array_equal(after.reconstruct(id_), tokens) for id_, tokens in zip(live, embeddings, strict=True))
    assert (len(after), after.version, "d1" in after) == (9, 1, False)
    assert after.verify() == []
    changing = {"version", "codebook", "partitions"}
    assert after.manifest.model_dump(exclude=changing) == manifest.model_dump(exclude=changing)
    after.append(small_documents(12, 14))
    assert len(Index.open(tmp_path / "new")) == 11


def test_only_an_index_of_version_2_is_migrated_and_never_over_another(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"format version 3; expected version 2\. It needs no migration"):
        raycol.migrate_index(root, tmp_path / "new")
    other = small_index(tmp_path / "other")
    rewrite_as_version_2(root)
    with pytest.raises(InputError, match="already holds an index"):
        raycol.migrate_index(root, other)
    with pytest.raises(InputError, match="no such folder"):
        raycol.migrate_index(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", ["a bit", "a value"])
@pytest.mark.parametrize("name", ["codes", "offsets", "id_offsets"])
def test_a_damaged_index_is_not_migrated(root: Path, tmp_path: Path, name: str, change: str) -> None:
    rewrite_as_version_2(root)
    damage(root, name, change)
    with pytest.raises(IndexCorruptError, match=str(root / "partitions")):
        raycol.migrate_index(root, tmp_path / "new")
    assert not (tmp_path / "new" / "manifests").exists()


def test_the_command_prints_what_the_new_index_holds(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_as_version_2(root)
    assert run("index", "migrate", str(root), str(tmp_path / "new")) == 0
    assert "documents    9" in capsys.readouterr().out
    assert run("index", "migrate", str(root), str(tmp_path / "new")) == 2
    assert "already holds an index" in capsys.readouterr().err
