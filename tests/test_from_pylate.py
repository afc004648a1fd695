"""docs/from-pylate.md is executable: raycol's column runs here, PyLate's where PyLate is installed, and they agree.

PyLate's Python is RAYCOL_PYLATE_PYTHON, or the one of `make bench-pylate` (.venv-pylate).
"""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import document_rows
from tests.conftest import PROJECT, write_jsonl

PAGE = (PROJECT / "docs" / "from-pylate.md").read_text()
PYLATE = Path(os.environ.get("RAYCOL_PYLATE_PYTHON", PROJECT / ".venv-pylate" / "bin" / "python"))
# Sections whose rows start processes or train: they run on Ray, after the names of the first section alone.
LONG = ("Several processes", "Training", "Server")

Outcomes = dict[str, dict[str, Any]]

# The public names of PyLate, and the options of its model, index, retriever and losses.
NAMES = """
import inspect
from pylate import evaluation, hf_hub, indexes, losses, models, rank, retrieve, scores, utils
modules = (evaluation, hf_hub, indexes, losses, models, rank, retrieve, scores, utils)
callables = [models.ColBERT, models.ColBERT.encode, indexes.PLAID, indexes.Voyager, retrieve.ColBERT.retrieve]
callables += [losses.Contrastive, losses.CachedContrastive, losses.Distillation, utils.KDProcessing]
options = {name for each in callables for name in inspect.signature(each).parameters} - {"self", "kwargs"}
sorted({name for module in modules for name in module.__all__} | options)
"""


@dataclass(frozen=True)
class Row:
    """A row of the page: code on both sides, as the page has it, and whether the values are the same."""

    name: str
    section: str
    cells: dict[str, str]
    same: bool

    def code(self, side: str) -> str:
        """The code of a cell: its spans, each a line; empty for a cell that says there is none."""
        cell = self.cells[side]
        spans = re.findall(r"`([^`]+)`", cell)
        return "\n".join(spans if not cell.startswith("none") or "<br>" in cell else [])


def sections() -> dict[str, str]:
    """The page's sections by title; the page's own title is that of the first."""
    parts = (part.partition("\n") for part in re.split(r"^## ", PAGE, flags=re.MULTILINE))
    return {title: text for title, _, text in parts}


def rows() -> list[Row]:
    found = []
    for section, text in sections().items():
        for line in re.findall(r"^\| (?!\|)(.*) \|$", text, flags=re.MULTILINE):
            name, pylate, raycol, same = (f"{line} " if line.endswith("|") else line).split(" | ")
            found.append(Row(name, section, {"PyLate": pylate, "raycol": raycol}, same.strip() == "="))
    return found


ROWS = rows()
FAST_ROWS = [row for row in ROWS if row.section not in LONG]
LONG_ROWS = [row for row in ROWS if row.section in LONG]


def code(side: str, *, long: bool) -> list[tuple[str, str]]:
    """The code of a side in the page's order: of each section its block, and then its rows."""
    pieces = []
    for number, (section, text) in enumerate(sections().items()):
        if number and (section in LONG) != long:
            continue
        pieces += [(section, block) for block in re.findall(rf"```python\n# {side}\n(.*?)```", text, flags=re.DOTALL)]
        pieces += [(row.name, row.code(side)) for row in ROWS if row.section == section and row.code(side)]
    return pieces


def make_workspace(folder: Path, colbert: Path, backbone: Path) -> Path:
    """A folder with the models and the collection that the page names."""
    from raycol.models.encoder import load_encoder
    from raycol.models.saving import save_encoder

    folder.mkdir()
    assert save_encoder(load_encoder(colbert, device="cpu"), folder / "my-colbert") is None
    (folder / "my-backbone").symlink_to(backbone)
    names: dict[str, Any] = {}
    (literals,) = re.findall(r"^ids = .*?^queries = .*?$", PAGE.split("# raycol\n")[1], flags=re.MULTILINE | re.DOTALL)
    exec(literals, names)
    beir = folder / "my-beir"
    (beir / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": id_, "title": "", "text": text} for id_, text in zip(names["ids"], names["documents"], strict=True)
    ]
    write_jsonl(beir / "corpus.jsonl", corpus)
    write_jsonl(beir / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(names["queries"], 1)])
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t1\nq2\t2\t1\n")
    return folder


@pytest.fixture(scope="module")
def workspace(tiny_colbert: Path, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("from-pylate") / "work", tiny_colbert, tiny_backbone)


@pytest.fixture(scope="module")
def with_raycol(workspace: Path) -> Outcomes:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setitem(sys.modules, "ray", None)  # any import of Ray would fail
        return document_rows.run(code("raycol", long=False))


def run_pylate(workspace: Path, *, long: bool) -> Outcomes:
    """Run PyLate's column in its own Python; skips if there is none."""
    if not PYLATE.exists():
        pytest.skip(f"needs a Python with PyLate (make bench-pylate), not {PYLATE}; point RAYCOL_PYLATE_PYTHON at it")
    done = subprocess.run(
        [str(PYLATE), document_rows.__file__],
        cwd=workspace,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""},
        input=json.dumps([*code("PyLate", long=long), ("names", NAMES)]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def with_pylate(workspace: Path) -> Outcomes:
    return run_pylate(workspace, long=False)


def check(row: Row, outcomes: Outcomes, side: str) -> Any:
    """Return the value of a row; an error fails, unless the page announces it. Skips without PyLate's extra."""
    outcome = outcomes.get(row.name, {"value": None})
    announced = re.match(r"raises (\w+): ", row.cells[side])
    if outcome.get("error") in ("ImportError", "ModuleNotFoundError") and side == "PyLate":
        pytest.skip(outcome["message"].strip().splitlines()[-1])
    assert outcome.get("error") == (announced and announced[1]), outcome.get("message")
    return outcome.get("value")


def check_same(row: Row, pylate: Outcomes, raycol: Outcomes) -> None:
    """Check that both sides work, and have the same value where the page says so."""
    value, ours = check(row, pylate, "PyLate"), check(row, raycol, "raycol")
    if row.same:
        assert value is not None
        assert_close(value, ours, row.name)


def assert_close(value: Any, ours: Any, where: str) -> None:
    if isinstance(value, list) and isinstance(ours, list):
        assert len(value) == len(ours), where
        for number, pair in enumerate(zip(value, ours, strict=True)):
            assert_close(*pair, f"{where}[{number}]")
    elif isinstance(value, float) and isinstance(ours, float):
        assert math.isclose(value, ours, rel_tol=1e-4, abs_tol=1e-4), f"{where}: {value}, {ours}"
    else:
        assert value == ours, where


def test_the_page_says_something_in_every_cell() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 60
    assert {row.section for row in ROWS} >= {*LONG}
    for row in ROWS:
        assert row.code("PyLate"), row.name
        assert row.code("raycol") or row.cells["raycol"].startswith("none"), row.name
        assert row.code("raycol") or not row.same, row.name


@pytest.mark.parametrize("row", FAST_ROWS, ids=lambda row: row.name)
def test_raycols_side(row: Row, with_raycol: Outcomes) -> None:
    check(row, with_raycol, "raycol")


@pytest.mark.slow
@pytest.mark.parametrize("row", FAST_ROWS, ids=lambda row: row.name)
def test_pylates_side_agrees(row: Row, with_pylate: Outcomes, with_raycol: Outcomes) -> None:
    check_same(row, with_pylate, with_raycol)


@pytest.mark.slow
def test_the_page_has_every_name_of_pylate(with_pylate: Outcomes) -> None:
    names = with_pylate["names"]["value"]
    assert [name for name in names if not re.search(rf"\b{name}\b", PAGE)] == []


@pytest.mark.slow
@pytest.mark.long
def test_raycols_side_on_ray(workspace: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    outcomes = document_rows.run(code("raycol", long=True))
    for row in LONG_ROWS:
        check(row, outcomes, "raycol")
    if PYLATE.exists():
        pylate = run_pylate(workspace, long=True)
        for row in LONG_ROWS:
            check_same(row, pylate, outcomes)
