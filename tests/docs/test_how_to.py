"""How-to pages and the tutorial: commands parse, Python and command do the same, and the Python runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from raycol.index import Index
from tests.cluster.commands import check
from tests.conftest import PROJECT
from tests.docs.pages import DOCS, HOW_TO, blocks, call_of, calls_in, commands, run, tabs
from tests.index.version_2 import rewrite_as_version_2
from tests.test_verbs import commands as all_commands

TUTORIAL = DOCS / "tutorial.md"
PAGES = [TUTORIAL, *HOW_TO]


def of_page(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PAGES, ids=of_page)
def test_commands_parse(path: Path) -> None:
    found = commands(path.read_text())
    assert found
    for line in found:
        check(line)


@pytest.mark.parametrize("path", PAGES, ids=of_page)
def test_python_and_command_do_the_same(path: Path) -> None:
    found = list(tabs(path.read_text()))
    assert found
    for python, command in found:
        code = "".join(blocks("python", python))
        expected = [call_of(line) for line in commands(command)]
        if "etriever" in code:
            expected = [call for call in expected if call[0] != "search"]
        assert calls_in(code) == expected


def test_every_command_has_a_page() -> None:
    text = "".join(path.read_text() for path in PAGES)
    for command in all_commands():
        if command[0] != "submit":
            assert f"raycol {' '.join(command)}" in text, command


def test_the_tutorial_has_the_commands_of_the_readme() -> None:
    readme, tutorial = (set(commands(path.read_text())) for path in (PROJECT / "README.md", TUTORIAL))
    assert len(readme) == 4
    assert readme <= tutorial


def run_pages(names: list[str], model: Path) -> None:
    """Run the Python of how-to pages, with trainings of four steps and few held-out queries."""
    for name in names:
        path = DOCS / "how-to" / f"{name}.md"
        code = "".join(blocks("python", path.read_text()))
        for setting, value in {"max_steps": 4, "eval_every": 2, "held_out": 8}.items():
            code = re.sub(rf"{setting}=\d+", f"{setting}={value}", code)
        run(code, model, f"<{path.name}>")


@pytest.mark.slow
def test_the_python_of_the_pages_runs(folder: Path, tiny_backbone: Path) -> None:
    """In this process, one page after the other: later ones use the indexes of earlier ones."""
    for page in (DOCS / "index.md", TUTORIAL):
        run(blocks("python", page.read_text())[0], tiny_backbone, f"<{page.name}>")
    run_pages(["build", "search", "append"], tiny_backbone)
    rewrite_as_version_2(Path(shutil.copytree(folder / "my-index", folder / "old-index")))
    run_pages(["maintain", "evaluate", "mine"], tiny_backbone)
    assert len(Index.open(folder / "new-index")) > 0
    assert json.loads((folder / "scored" / "scoring-report.json").read_text())["rows"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_the_python_of_the_pages_on_ray_runs(folder: Path, tiny_backbone: Path) -> None:
    run_pages(["build", "evaluate", "mine", "train", "append", "serve"], tiny_backbone)
    assert {"my-model", "better-model", "student"} <= {path.name for path in folder.iterdir()}
