"""The verbs as functions: signatures as in the configurations, a function for each command, and `overwrite`."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer

import raycol
from raycol.cli.commands import app
from raycol.core.config import Config
from raycol.demo.config import DemoConfig
from raycol.doctor.config import DoctorConfig
from raycol.errors import ArgumentError, InputError
from raycol.evaluation.comparison import Mean
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.result import Evaluation, SystemResult
from raycol.index.searcher import IndexStats
from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig, PlanConfig
from raycol.jobs.submit import SubmitConfig
from raycol.jobs.verbs import VERBS
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.models.exporting import ExportConfig
from raycol.retrieval import SearchConfig
from raycol.serving import keys
from raycol.serving.config import ServeConfig
from raycol.serving.deploy import DeployConfig
from raycol.studies.config import StudyConfig
from raycol.sweeps.config import SweepConfig
from raycol.training.config import TrainConfig
from raycol.training.hub import PushConfig
from raycol.training.launch import TrainReport
from raycol.verbs.overwriting import beside_index
from tests.conftest import make_passages, write_jsonl

CONFIGS: dict[str, type[Config]] = {
    "append_index": AppendConfig,
    "build_index": IndexConfig,
    "compact_index": CompactConfig,
    "deploy": DeployConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "mine": MineConfig,
    "plan_index": PlanConfig,
    "push": PushConfig,
    "run_demo": DemoConfig,
    "run_doctor": DoctorConfig,
    "score": ScoreConfig,
    "search": SearchConfig,
    "serve": ServeConfig,
    "study": StudyConfig,
    "submit": SubmitConfig,
    "sweep": SweepConfig,
    "train": TrainConfig,
}
# Parameters that are not settings.
EXTRA = {"overwrite", "verb", "file", "settings"}
# Wider than the configuration: a corpus in memory, one source of examples or several.
WIDER = {("append_index", "corpus"), ("build_index", "corpus"), ("plan_index", "corpus"), ("train", "data")}
FUNCTIONS = {
    "append": "append_index",
    "build": "build_index",
    "compact": "compact_index",
    "delete": "delete_documents",
    "demo": "run_demo",
    "doctor": "run_doctor",
    "info": "index_info",
    "migrate": "migrate_index",
    "plan": "plan_index",
    "vacuum": "vacuum_index",
    "verify": "verify_index",
}


def accepted(annotation: Any) -> Any:
    """The types that a function accepts for a field of this type: str or Path for a location, any sequence, ..."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        parsers = {each.func.__name__ for each in metadata if hasattr(each, "func")}
        if "_as_tuple" in parsers:  # one value may stand for a tuple of one
            return accepted(inner) | accepted(get_args(inner)[0])
        return frozenset({str, Path}) if "_parse_location" in parsers else accepted(inner)
    if origin in (Union, types.UnionType):
        return frozenset().union(*map(accepted, get_args(annotation)))
    if annotation is Path:
        return frozenset({str, Path})
    if origin is Literal:
        return frozenset(get_args(annotation))
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        return frozenset({("sequence", accepted(get_args(annotation)[0]))})
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return frozenset({("mapping", float), str})  # "CPU=2,GPU=1", as on the command line
    return frozenset({annotation})


@pytest.mark.parametrize("name", CONFIGS)
def test_signature_and_configuration_agree(name: str) -> None:
    function, fields = getattr(raycol, name), CONFIGS[name].model_fields
    parameters = {key: value for key, value in inspect.signature(function).parameters.items() if key not in EXTRA}
    assert parameters.keys() == fields.keys()
    hints = get_type_hints(function, {**vars(inspect.getmodule(function)), **_results()}, include_extras=True)
    for key, parameter in parameters.items():
        default = inspect.Parameter.empty if fields[key].is_required() else fields[key].default
        given = Path(parameter.default) if isinstance(default, Path) else parameter.default
        assert given == default, key
        if (name, key) not in WIDER:
            kinds = accepted(Annotated[fields[key].annotation, *(fields[key].metadata or [None])])
            if name == "search" and key == "target":
                kinds |= {Path}
            assert accepted(hints[key]) == kinds, key
        assert f"    {key}: " in function.__doc__, key


def _results() -> dict[str, Any]:
    """The names of results, which are imported for type checkers only."""
    names = "BuildReport CompactReport Estimate Evaluation Finding IndexStats MiningReport Results RunningEndpoint"
    names += " Change Exported Pushed ScoringReport StudyResult Submitted SweepResult TrainReport VacuumResult"
    names += " VersionResponse"
    return dict.fromkeys(names.split(), object)


def commands() -> list[tuple[str, ...]]:
    """All commands of the command line, such as ("index", "build")."""
    found: list[tuple[str, ...]] = []

    def visit(command: Any, path: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            visit(child, (*path, name))
        if not hasattr(command, "commands"):
            found.append(path)

    visit(typer.main.get_command(app), ())
    return found


def test_every_command_has_its_function() -> None:
    groups = {path[0] for path in commands()}
    assert {"train", "index", "key", "submit", "jobs"} <= groups
    for path in commands():
        name = path[-1]
        if path[0] == "key":
            assert {"add": keys.new_key, "revoke": keys.revoke_key, "list": keys.read_keys}[name]
        elif path[0] == "submit":
            assert name in VERBS
            assert callable(raycol.submit)
        elif path[0] == "jobs":
            from raycol.jobs.cluster import Cluster

            assert {"list": Cluster.jobs, "logs": Cluster.job, "stop": Cluster.stop}[name]
        else:
            function = getattr(raycol, FUNCTIONS.get(name, name))
            assert function.__module__.startswith("raycol.verbs.")
            assert function.__doc__


def test_the_package_lists_its_names() -> None:
    assert {"Retriever", "build_index", "train", "Index"} <= set(dir(raycol))
    assert all(getattr(raycol, name) is not None for name in raycol.__all__)
    assert (Path(raycol.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = raycol.nothing


def test_a_wrong_value_is_reported_by_the_functions_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^raycol\.build_index: bits is 3: "):
        raycol.build_index([{"id": "1", "text": "rain"}], out=tmp_path / "index", bits=3)
    with pytest.raises(InputError, match=r"^raycol\.evaluate: split is 5: "):
        raycol.evaluate("scifact", index="an-index", split=5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: raycol.search("i", ["q"], top_k=3), "search has no argument 'top_k'; the nearest is 'k'"),
        (lambda: raycol.search(index_path="i", queries=["q"]), "'index_path'; the nearest is 'target'"),
        (lambda: raycol.build_index([], model_name="m", out="i"), "'model_name'; the nearest is 'model'"),
        (lambda: raycol.build_index([], model="m", index="i"), "'index'; the nearest is 'out'"),
        (lambda: raycol.evaluate("d", index_path="i"), "'index_path'; the nearest is 'index'"),
        (lambda: raycol.train(model="m", data="d", output_dir="o"), "'output_dir'; the nearest is 'out'"),
        (lambda: raycol.train(per_device_train_batch_size=8), "the nearest is 'batch_size'"),
        (lambda: raycol.delete_documents("i", ["1"], refuse=True), "the nearest is 'refuse_unknown'"),
        (lambda: raycol.load_encoder("m", max_query_length=8), "the nearest is 'query_length'"),
        (lambda: raycol.Retriever(index="i"), "Retriever has no argument 'index'; the nearest is 'target'"),
        (lambda: raycol.Index.create("i", [], nbits=2), "create has no argument 'nbits'; the nearest is 'bits'"),
        (lambda: raycol.Client("http://h").search("q", top_k=1), "the nearest is 'k'"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as refused:
        call()
    assert isinstance(refused.value, TypeError)
    assert isinstance(refused.value, InputError)


def test_index_verbs(corpus: Path, tmp_path: Path, clustered: list) -> None:
    index = tmp_path / "index"
    raycol.Index.create(index, (raycol.Document(f"d{n}", each) for n, each in enumerate(clustered)))
    assert raycol.index_info(index).documents == 200
    assert raycol.delete_documents(index, ["d0", "nothing"]).removed == 1
    with pytest.raises(InputError, match="nothing"):
        raycol.delete_documents(index, ["nothing"], refuse_unknown=True)
    with pytest.raises(InputError, match="expected a list of ids"):
        raycol.delete_documents(index, "d1")
    assert raycol.vacuum_index(index, keep=1).versions == (1,)
    assert raycol.verify_index(index) == []
    assert beside_index(index) == set()
    (index / "notes.txt").write_text("mine")
    assert beside_index(index) == {"notes.txt"}
    with pytest.raises(InputError, match=r"files that raycol did not write, notes\.txt, so it is not overwritten"):
        raycol.build_index([{"id": "1", "text": "a"}], model="m", out=index, overwrite=True)
    assert (index / "notes.txt").read_text() == "mine"
    assert raycol.index_info(index).documents == 199


def test_only_finished_results_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for call in (
        lambda: raycol.build_index([{"id": "1", "text": "a"}], model="m", out=out, overwrite=True),
        lambda: raycol.train(model="m", data="d", out=out, overwrite=True),
        lambda: raycol.mine("i", "d", out=out, overwrite=True),
        lambda: raycol.score("d", teacher="t", out=out, overwrite=True),
    ):
        with pytest.raises(InputError, match="so it is not overwritten"):
            call()
    assert (out / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_overwrite_keeps_the_old_index_if_the_input_is_bad(tmp_path: Path, clustered: list) -> None:
    index = tmp_path / "index"
    raycol.Index.create(index, (raycol.Document(f"d{n}", each) for n, each in enumerate(clustered)))
    with pytest.raises(InputError, match="the corpus, record 2: "):
        raycol.build_index([{"id": "1", "text": "a"}, {"id": "2"}], model="m", out=index, overwrite=True)
    assert raycol.index_info(index).documents == 200


def test_results_are_short_and_tables() -> None:
    losses = [0.5] * 10_000
    report = TrainReport("/models/new", 320, losses, {"nDCG@10": 0.61803}, 40, 12.3456)
    assert repr(report) == (
        "TrainReport(model='/models/new', steps=10000, examples=320, metrics={'nDCG@10': 0.618}, best_step=40, "
        "improved=None, seconds=12.35)"
    )
    assert "<td style='text-align:left'>10,000 values</td>" in report._repr_html_()
    assert report.loss_summary == "mean loss 0.500 -> 0.500 (first and last tenth of the steps)"
    assert TrainReport("m", 8, [2.0] * 179 + [1.0] * 20, {}, 0, 1.0).loss_summary == "mean loss 1.000 (last 20 steps)"
    assert TrainReport("m", 8, [1.0, 2.0], {}, 0, 1.0).loss_summary == "mean loss 1.500 (last 2 steps)"
    mean = Mean(0.5, (0.25, 0.75))
    result = SystemResult("scifact", None, "exact <MaxSim>", {"nDCG@10": mean}, {}, 3, 60, 0, 1.5, None)
    evaluation = Evaluation((result,), {"exact <MaxSim>": {"nDCG@10": mean}}, (), "exact <MaxSim>")
    assert evaluation.metrics == {"nDCG@10": 0.5}
    assert repr(evaluation) == "Evaluation({'exact <MaxSim>': {'nDCG@10': '0.500 [0.250, 0.750]'}})"
    assert "<td style='text-align:left'>exact &lt;MaxSim&gt;</td>" in evaluation._repr_html_()
    stats = IndexStats(1, (1,), 2, 19, 0, 0, 1, 128, 4, 4, 7234, {"codes": 38}, 1.0)
    assert "codes 38" in stats._repr_html_()


@pytest.mark.slow
@pytest.mark.long
def test_a_notebooks_cells_run_twice(tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, build, serve and search, on Ray, from dicts and files; a second run replaces the results."""
    monkeypatch.chdir(tmp_path)
    texts = [{**passage, "lang": "en"} for passage in make_passages(12)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"query": t["title"], "positive": t["text"]} for t in texts])
    for run in range(2):
        trained = raycol.train(
            model=tiny_backbone, data=pairs, out="model", batch_size=4, mini_batch_size=4, embedding_size=16,
            query_length=8, document_length=32, allow_duplicates=True, max_steps=run + 1, overwrite=True,
        )  # fmt: skip
        assert trained.steps == run + 1
        assert trained.model == str(tmp_path / "model")
        built = raycol.build_index(iter(texts), model="model", out="index", metadata=["lang"], overwrite=True)
        assert (built.index, built.documents, raycol.index_info("index").version) == ("index", 12, 1)
    assert "-new" not in (tmp_path / "model" / "training" / "config.yaml").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "model", "index"}
    more = [{"_id": "new", "title": "", "text": "rain and storm", "lang": "de"}]
    assert raycol.append_index("index", more).version == 2
    local = raycol.Retriever("index")
    with raycol.serve("index", port=0) as endpoint, raycol.Retriever(endpoint.url) as remote:
        for retriever in (local, remote):
            assert [hit.id for hit in retriever.search("rain", filter="lang = 'de'")] == ["new"]
        assert local.search(["rain", "bread"]) == remote.search(["rain", "bread"])
        assert local.rerank("rain", ["new"])[0].metadata == remote.rerank("rain", ["new"])[0].metadata
        assert local.explain("rain", "new").matches == remote.explain("rain", "new").matches


def test_a_dashboard_is_checked_by_the_command() -> None:
    with pytest.raises(InputError, match="through a dashboard the checks run as a job"):
        raycol.run_doctor(address="http://127.0.0.1:1")
