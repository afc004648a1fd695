"""--json: every command that prints a result has it, and standard output is then one line of JSON."""

import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from raycol.cli.commands import app
from raycol.cli.output import Output, as_json, with_json
from raycol.data import BadRecord
from raycol.doctor.checks import Finding
from raycol.evaluation.comparison import Mean
from raycol.evaluation.result import Evaluation, SystemResult
from raycol.index import Document, Hit, Index, IndexStats
from raycol.retrieval import Hits, Results
from raycol.serving.keys import new_key
from raycol.training.launch import TrainReport
from tests.cli.test_bad_input import run
from tests.jobs.conftest import served  # noqa: F401
from tests.jobs.dashboard import Dashboard
from tests.test_verbs import commands

WITHOUT = {
    ("demo",): "prints a report of several steps, with a table",
    ("serve",): "runs until it is interrupted",
    ("key", "add"): "prints the key alone, for a variable of a shell",
    ("key", "revoke"): "has no result",
    ("jobs", "logs"): "prints a log",
}


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_that_prints_a_result_has_json(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    # A submitted job prints its log.
    expected = path not in WITHOUT and path[0] != "submit"
    assert any("--json" in option.opts for option in command.params) == expected


def printed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    assert run(*words, "--json") == code
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.fixture
def index(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    documents = (Document(f"d{n}", rng.standard_normal((4, 16)).astype(np.float32)) for n in range(9))
    return Index.create(tmp_path / "i", documents).uri


def test_the_keys_are_the_fields_of_the_result(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    info = printed(capsys, "index", "info", index)
    assert info.keys() == {field.name for field in fields(IndexStats)}
    assert (info["documents"], info["versions"]) == (9, [1])
    assert printed(capsys, "index", "delete", index, "d0", "d1") == {"version": 2, "added": 0, "removed": 2}
    compacted = printed(capsys, "index", "compact", index)
    assert (compacted["index"], compacted["version"], compacted["dropped"]) == (index, 3, 2)
    vacuumed = printed(capsys, "index", "vacuum", index, "--keep", 1)
    assert (vacuumed["versions"], len(vacuumed["removed"])) == ([1, 2], 2)
    assert printed(capsys, "index", "verify", index) == []


def test_a_damaged_index_is_a_list_of_problems_and_exit_code_1(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(Path(index).glob("partitions/*/partition.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = printed(capsys, "index", "verify", index, code=1)
    assert str(path) in problem


def test_hits_and_evaluations(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hit = Hit("d1", 1.5, {"text": "Ein Käfer\u202e", "year": 2024})
    monkeypatch.setattr("raycol.retrieval.search", lambda _: Results([Hits("café", [hit]), Hits("none")]))
    for command in (["search"], ["index", "search"]):
        assert printed(capsys, *command, "i", "café", "none") == [
            {"query": "café", "hits": [{"id": "d1", "score": 1.5, "metadata": hit.metadata}]},
            {"query": "none", "hits": []},
        ]
    mean = Mean(0.5, None)
    result = SystemResult(
        "scifact", None, "a", {"nDCG@10": mean}, {"nDCG@10": {"q": 0.5}}, 1, 60, 1, 2.0, None, ("n",)
    )
    evaluation = Evaluation((result,), {"a": {"nDCG@10": mean}}, (), "a")
    monkeypatch.setattr("raycol.verbs.evaluate", lambda *_, **__: evaluation)
    evaluated = printed(capsys, "evaluate", "scifact", "--model", "m")
    assert evaluated == {field.name: evaluated[field.name] for field in fields(Evaluation)}
    (first,) = evaluated["results"]
    assert (first["means"], first["notes"]) == ({"nDCG@10": {"value": 0.5, "interval": None}}, ["n"])
    assert evaluated["averages"] == {"a": {"nDCG@10": {"value": 0.5, "interval": None}}}
    report = TrainReport("/models/new", 4, [0.5, math.nan], {}, 2, 1.0)
    monkeypatch.setattr("raycol.verbs.train", lambda **_: report)
    trained = printed(capsys, "train", "--model", "m", "--data", "d", "--out", "o")
    assert (trained["model"], trained["losses"]) == ("/models/new", [0.5, None])


def test_keys_are_listed_without_their_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_key(tmp_path / "keys.json", "ci")
    (key,) = printed(capsys, "key", "list", tmp_path / "keys.json")
    assert key.keys() == {"name", "scope", "created"}


def test_jobs_and_findings(
    served: Dashboard,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = ("--address", served.address)
    assert printed(capsys, "jobs", "list", *at) == []
    served.add("raycol-index-1", "FAILED", start_time=10**12, metadata={"writes": "/x"})
    (job,) = printed(capsys, "jobs", "list", *at)
    assert (job["id"], job["started"], job["ended"]) == ("raycol-index-1", "2001-09-09T01:46:40Z", None)
    assert printed(capsys, "jobs", "stop", "raycol-index-1", *at) == job
    assert run("doctor", "--json", *at) == 2
    assert "--json: these checks run as a job of the cluster" in capsys.readouterr().err

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setattr("raycol.doctor.run.examine", lambda _: [Finding("disk", "failed", "full", "free some")])
    assert run("doctor", "--json") == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding == {"check": "disk", "state": "failed", "detail": "full", "fix": "free some"}


@dataclass
class Result:
    score: float
    skipped: tuple[BadRecord, ...] = ()


def test_json_is_finite_keeps_unicode_and_escapes_control_characters() -> None:
    text = "naïve 語 \U0001f41e \x1b[2J \x9b \u202e \ud800 \U000e0001"
    line = as_json([Result(-math.inf, (BadRecord(text, "zero"),))])
    assert json.loads(line) == [{"score": None, "skipped": [{"where": text, "what": "zero"}]}]
    assert line.isprintable()
    assert "naïve 語 \U0001f41e" in line


def test_what_a_library_prints_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    def loud() -> Output:
        sys.stdout.write("loading\n")
        return Output({"found": 1}, lambda result: sys.stdout.write(f"{result['found']}\n"))

    with_json(loud)(json_=True)
    assert capsys.readouterr() == ('{"found": 1}\n', "loading\n")
    with_json(loud)()
    assert capsys.readouterr() == ("loading\n1\n", "")
