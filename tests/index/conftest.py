"""A small index with a past, and a copy of it to be spoilt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.index.forging import small_index


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_index(tmp_path_factory.mktemp("made") / "i")


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "i"))
