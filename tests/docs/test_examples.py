"""The scripts and the notebook of docs/examples/ run; with the demo's model their hits are right."""

import ast
import json
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, MODEL, run

EXAMPLES = DOCS / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
# A stand-in that takes milliseconds, and the model that the examples name.
MODELS = ["tiny", pytest.param(MODEL, marks=pytest.mark.long)]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(request.getfixturevalue("tiny_backbone")) if request.param == "tiny" else request.param


def example(name: str, model: str) -> dict:
    path = EXAMPLES / f"{name}.py"
    return run(path.read_text(), model, f"<{path.name}>")


def test_the_page_lists_every_example() -> None:
    page = (EXAMPLES / "index.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "index.md" or f"[{path.name}]({path.name})" in page
        if path.suffix == ".py":
            assert f"python docs/examples/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")


@pytest.mark.slow
def test_texts_are_searched(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    example("search_texts", model)["main"]("how do I parse a date?")
    hits = capsys.readouterr().out.splitlines()
    assert len(hits) == 3
    if model == MODEL:
        assert "datetime.date.fromisoformat" in hits[0]


@pytest.mark.slow
def test_filters(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    example("filters", model)["main"]()
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [{*line.split(", ")} for line in lines[:3]] == [{"colbertv2", "plaid"}, {"colbert", "dpr"}, {"bm25"}]
    assert {*lines[3].split(", ")} == {"plaid (CIKM 2022)", "dpr (EMNLP 2020)"}


def test_the_notebook_is_valid_and_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        code = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | code
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs(model: str) -> None:
    """Cell by cell; each shows the value of its last line, of the kind that a notebook shows as a table."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    namespace: dict = {}
    shown = []
    for cell in cells:
        *body, last = ast.parse("".join(cell["source"]).replace(MODEL, model)).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(body, []), cell["id"], "exec"), namespace)
        shown.append(eval(compile(ast.Expression(last.value), cell["id"], "eval"), namespace))
    assert all("<table" in each._repr_html_() for each in shown)
    built, hits, filtered, explained, found, stats = shown
    assert (built.documents, stats.documents, stats.version) == (6, 6, 3)
    assert {hit.id for hit in filtered} == {"shutil.copytree", "shutil.rmtree"}
    if model == MODEL:
        assert hits[0].id == "date.fromisoformat"
        assert "copy" in {match.document_token for match in explained.matches if match.query_token == "copy"}
        assert found[0][0].id == "random.shuffle"


@pytest.mark.slow
@pytest.mark.long
def test_a_folder_is_trained_on(folder: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = example("train_on_a_folder", str(tiny_backbone))["main"]
    main(str(folder / "scifact"), "my-model", model=str(tiny_backbone), max_steps=2, batch_size=8)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 steps over 40 examples"
    assert [line.rpartition(": ")[0] for line in lines[1:]] == [
        "nDCG@10 before", "nDCG@10 after", "nDCG@10 after, through the index",
    ]  # fmt: skip
