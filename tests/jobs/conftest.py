import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.jobs.dashboard import Dashboard, dashboard


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """A dashboard that requires no token."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with dashboard() as running:
        yield running


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a checkout, with the files that matter for submitting, and a build's settings."""
    folder = tmp_path / "checkout"
    shutil.copytree(PROJECT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "raycol").mkdir()
    (folder / "raycol" / "__init__.py").touch()
    (folder / "build.yaml").write_text("corpus: /shared/corpus.jsonl\nmodel: a/b\nout: /shared/index\n")
    monkeypatch.chdir(folder)
    return folder
