import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.index import Index
from raycol.jobs.package import Package, _escaped, pack, size_limit


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_files_that_a_job_does_not_need_are_excluded(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "jobs/index.py", "build.yaml", "data/corpus.jsonl", "config.json",  # sent
        ".git/HEAD", ".venv/bin/python", ".venv-peers/x", "raycol/__pycache__/a.pyc", "node_modules/a", "x.egg-info/a",
        "my-model/config.json", "my-model/model.safetensors", "my-model/tokenizer.json", "other/modules.json",
        "loose.safetensors", "deep/my index [1]/manifests/00000001.json", "deep/my index [1]/partitions/a/codes.npy",
        ".my-model-training/checkpoints/00000050.json", "ignored/a", ".gitignore",
    )  # fmt: skip
    (tmp_path / ".gitignore").write_text("/ignored/\n")
    package = pack(tmp_path)
    assert sorted(package.files) == [".gitignore", "build.yaml", "config.json", "data/corpus.jsonl", "jobs/index.py"]
    assert package.left_out == {
        "my-model": "a checkpoint",
        "other": "a checkpoint",
        "deep/my index [1]": "an index",
        ".my-model-training": "training checkpoints",
    }
    assert sorted(pack(tmp_path, ["*.yaml", "/data"]).files) == [".gitignore", "config.json", "jobs/index.py"]


def test_a_real_index_is_recognised(tmp_path: Path, clustered: list) -> None:
    from raycol.index import Document

    Index.create(tmp_path / "index", (Document(str(n), tokens) for n, tokens in enumerate(clustered[:9])))
    fill(tmp_path, "a.yaml")
    package = pack(tmp_path)
    assert package.left_out == {"index": "an index"}
    assert list(package.files) == ["a.yaml"]


def test_the_file_list_and_size_match_rays_archive(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "here"
    fill(
        folder,
        "a",
        "b/c",
        "b/.gitignore",
        "b/d",
        "b/e/f",
        ".venv/x",
        "model/modules.json",
        "g h/i.pt",
        ".rayignore",
        "j",
    )
    (folder / "b" / ".gitignore").write_text("d\n")
    (folder / ".rayignore").write_text("j\n")
    (folder / "link").symlink_to(folder / "a")
    package = pack(folder, ["e"])
    excludes = [*get_runtime_env_default_excludes(), *package.excludes]
    create_package(str(folder), tmp_path / "it.zip", include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(tmp_path / "it.zip") as packed:
        sizes = {item.filename: item.file_size for item in packed.infolist() if not item.is_dir()}
    assert package.files == sizes
    assert package.bytes == (tmp_path / "it.zip").stat().st_size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12))
@example("a")
@example(" ")
@example("a\xa0")
def test_an_escaped_pattern_matches_its_own_name_only(name: str) -> None:
    from ray._private.thirdparty.pathspec import PathSpec

    if name in (".", ".."):
        return
    spec = PathSpec.from_lines("gitwildmatch", [f"/{_escaped(name)}"])
    assert spec.match_file(name)
    assert not spec.match_file(f"a{name}")
    assert not spec.match_file(f"{name}a/{name}")


def test_a_package_above_the_limit_names_its_largest_folders() -> None:
    package = Package(
        Path("/w"), {"data/a.npy": 90 << 20, "data/b.npy": 20 << 20, "c.bin": 3 << 20, "d/e": 5, "f": 1}, []
    )
    package.check_size(200 << 20)
    with pytest.raises(InputError) as error:
        package.check_size(100 << 20)
    message = str(error.value)
    assert "/w: 113.0 MiB in 5 files; expected at most 100.0 MiB" in message
    assert "The largest: data/ (110.0 MiB), c.bin (3.0 MiB), d/ (0.0 KiB)." in message
    assert "--exclude" in message


def test_the_size_limit_is_the_dashboards() -> None:
    assert size_limit() == 100 << 20


def test_a_folder_that_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "file")
    for name, message in (("gone", "no such folder"), ("file", "not a folder")):
        with pytest.raises(InputError, match=message):
            pack(tmp_path / name)
    os.symlink(tmp_path, tmp_path / "loop")
    with pytest.raises(InputError, match="loop: a link to a folder that contains it"):
        pack(tmp_path)
    assert list(pack(tmp_path, ["loop"]).files) == ["file"]


def test_a_folder_is_uploaded_if_one_of_its_files_is() -> None:
    package = Package(Path("/w"), {"data/a": 1, "b": 1}, [])
    for sent in ("data", "data/a", "./b", "b", "."):
        assert package.has(sent)
    for missing in ("dat", "data/c", "c"):
        assert not package.has(missing)
