"""The site: its navigation, links and API reference are complete, and mkdocs builds it."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import raycol
from tests.conftest import PROJECT
from tests.docs.pages import DOCS

CONFIG = DOCS / "site" / "mkdocs.yml"


def pages_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_in(entry)]


def test_the_navigation_has_every_page_once() -> None:
    pages = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    assert sorted(pages_in(yaml.safe_load(CONFIG.read_text())["nav"])) == pages


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", path.read_text()):
        linked = (path.parent / target).resolve()
        assert linked.exists(), target
        assert linked.is_relative_to(DOCS), target  # what is outside is not on the site


def test_the_reference_has_every_name() -> None:
    named = re.findall(r"^::: raycol\.(\w+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    assert {*named} == {*raycol.__all__, "errors"} - {"__version__"}


def test_the_reference_names_what_exists() -> None:
    names = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    assert len(names) > 30
    for name in names:
        pkgutil.resolve_name(name)


def test_the_tour_names_existing_files() -> None:
    named = re.findall(r"`([a-z_]+/[\w/.]*)`", (DOCS / "tour.md").read_text())
    assert len(named) > 20
    for name in named:
        assert (PROJECT / name).exists() or (PROJECT / "raycol" / name).exists(), name


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: make docs installs it")
def test_mkdocs_builds_the_site(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", CONFIG, "-d", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "Centroids of the codebook; by default" in reference  # the help of a setting
