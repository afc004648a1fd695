"""The commands: each parses its arguments, calls one function and prints the result."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from raycol import display, verbs
from raycol.cli.doctor import doctor
from raycol.cli.jobs import jobs_app
from raycol.cli.keys import key_app
from raycol.cli.options import given, options_of
from raycol.cli.output import Output, with_json
from raycol.cli.submit import submit_app
from raycol.cli.usage import CommandGroup
from raycol.core.escaping import echo
from raycol.core.lazy import without_gc
from raycol.core.progress import progress
from raycol.core.version import __version__
from raycol.data.corpus import read_id_lines
from raycol.demo.config import DemoConfig
from raycol.errors import IndexCorruptError, InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig, PlanConfig
from raycol.mining.config import MineConfig, ScoreConfig
from raycol.models.exporting import ExportConfig
from raycol.retrieval import Results, SearchConfig
from raycol.serving.config import ServeConfig
from raycol.serving.deploy import DeployConfig
from raycol.studies.config import StudyConfig
from raycol.sweeps.config import SweepConfig
from raycol.training.command import TrainCommandConfig
from raycol.training.hub import PushConfig

app = typer.Typer(
    help="Train, index and serve late-interaction (ColBERT-style) retrieval on Ray.",
    cls=CommandGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
index_app = typer.Typer(help="Build, change, maintain and search an index.", cls=CommandGroup, rich_markup_mode=None)
app.add_typer(index_app, name="index")
app.add_typer(key_app, name="key")
app.add_typer(submit_app, name="submit")
app.add_typer(jobs_app, name="jobs")

IndexArgument = Annotated[str, typer.Argument(help="Folder or URI of the index.", show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"raycol {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Global options. `main` handles --debug, at any position."""


@app.command()
@options_of(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Train, index, serve and search on this machine, over its own docstrings."""
    verbs.run_demo(**given(config))


@app.command()
@with_json
@options_of(TrainCommandConfig, recipe=True)
def train(config: TrainCommandConfig) -> Output:
    """Train an encoder on Ray Train. Run again after an interruption, the same command resumes."""
    values = given(config)
    if values.pop("dry_run", False):
        return Output(verbs.plan_training(**values), display.train_estimate)
    return Output(verbs.train(**values), display.trained)


@app.command()
@with_json
@options_of(SweepConfig, "recipe")
def sweep(config: SweepConfig) -> Output:
    """Train with sampled settings on Ray Tune. Run again, the same command continues."""
    return Output(verbs.sweep(**given(config)), display.swept)


@app.command()
@with_json
@options_of(PushConfig, "model", "name")
def push(config: PushConfig) -> Output:
    """Upload a trained model and its card to the Hugging Face hub, in one commit."""
    return Output(verbs.push(**given(config)), display.pushed)


@app.command()
@with_json
@options_of(ExportConfig, "model")
def export(config: ExportConfig) -> Output:
    """Write a model as an ONNX or OpenVINO graph with its tokenizer, and compare its embeddings with the model's."""
    return Output(verbs.export(**given(config)), display.exported)


@app.command()
@with_json
@options_of(MineConfig, "index", "data")
def mine(config: MineConfig) -> Output:
    """Find hard negatives of training queries in an index or with other systems, on Ray Data."""
    return Output(verbs.mine(**given(config)), display.mined)


@app.command()
@with_json
@options_of(ScoreConfig, "data")
def score(config: ScoreConfig) -> Output:
    """Score training examples with cross-encoders and language models, on Ray Data."""
    return Output(verbs.score(**given(config)), display.scored)


@index_app.command("build")
@with_json
@options_of(IndexConfig, "corpus")
def build(config: IndexConfig) -> Output:
    """Encode a corpus into an index on Ray Data."""
    return Output(verbs.build_index(**given(config)), display.built)


@index_app.command("plan")
@with_json
@options_of(PlanConfig, "corpus")
def plan(config: PlanConfig) -> Output:
    """Estimate what an index build takes, from a sample of the corpus and rates measured on this machine."""
    return Output(verbs.plan_index(**given(config)), partial(display.estimate, num_workers=config.num_workers))


@index_app.command("append")
@with_json
@options_of(AppendConfig, "index", "corpus")
def append(config: AppendConfig) -> Output:
    """Encode a corpus with an index's own encoder and append it, as one new version."""
    return Output(verbs.append_index(**given(config)), display.built)


@index_app.command("delete")
@with_json
def delete(
    index: IndexArgument,
    ids: Annotated[list[str] | None, typer.Argument(help="Documents to delete.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of ids, one a line, exactly as in the corpus; may be compressed.")
    ] = None,
    refuse_unknown: Annotated[
        bool, typer.Option("--refuse-unknown", help="Fail if a document is not in the index.")
    ] = False,
) -> Output:
    """Delete documents, as one new version. Compaction removes their bytes."""
    to_delete = [*(ids or []), *(read_id_lines(file) if file else [])]
    if not to_delete:
        raise InputError("nothing to delete: name documents, or a file of ids with --file")
    change = verbs.delete_documents(index, to_delete, refuse_unknown=refuse_unknown)
    return Output(change, partial(display.deleted, index=index, n_ids=len(set(to_delete))))


@index_app.command("compact")
@with_json
@options_of(CompactConfig, "index")
def compact(config: CompactConfig) -> Output:
    """Merge small partitions and drop deleted documents, as one new version."""
    return Output(verbs.compact_index(**given(config)), display.compacted)


@index_app.command("vacuum")
@with_json
def vacuum(
    index: IndexArgument,
    keep: Annotated[int, typer.Option(help="Number of versions to keep, including the current one.")] = 2,
    abandoned: Annotated[
        bool,
        typer.Option("--abandoned", help="Also remove files of unfinished writers. Only safe while no writer runs."),
    ] = False,
) -> Output:
    """Remove old versions, and files that no remaining version references."""
    return Output(verbs.vacuum_index(index, keep=keep, abandoned=abandoned), partial(display.vacuumed, index=index))


@index_app.command("migrate")
@with_json
def migrate(
    index: IndexArgument,
    out: Annotated[str, typer.Argument(help="Folder or URI of the new index.", show_default=False)],
) -> Output:
    """Write an index of format version 2 again in the present format, with the same hits."""
    from raycol.index import Index

    result = verbs.migrate_index(index, out)
    return Output(result, partial(display.stats, index=Index.open(out)))


@index_app.command("info")
@with_json
def info(
    index: IndexArgument,
    version: Annotated[int | None, typer.Option(help="Version to open. Default: the newest.")] = None,
) -> Output:
    """Print an index's contents, size and codec."""
    from raycol.index import Index

    opened = Index.open(index, version)
    return Output(opened.stats(), partial(display.stats, index=opened))


@index_app.command("verify")
@with_json
def verify(index: IndexArgument) -> Output:
    """Read every byte of an index and check it against the manifests' checksums."""
    problems = verbs.verify_index(index)
    return Output(problems, partial(_show_problems, index=index), exit_code=1 if problems else 0)


def _show_problems(problems: list[str], index: str) -> None:
    for problem in problems:
        echo(problem, err=True)
    if problems:
        raise IndexCorruptError(f"{index}: {len(problems)} files do not match their manifests")
    echo(f"{index}: every file matches its manifests")


@app.command()
@options_of(ServeConfig, "index")
def serve(config: ServeConfig) -> None:
    """Serve an index over HTTP on this machine, until interrupted."""
    from raycol.serving.run import serving, wait_for_interrupt

    with ExitStack() as running:
        with progress("Starting the endpoint"):
            endpoint = running.enter_context(serving(config))
        display.serving(endpoint)
        wait_for_interrupt()
        with progress("Stopping"):
            running.close()


@app.command()
@with_json
@options_of(DeployConfig, "target")
def deploy(config: DeployConfig) -> Output:
    """Switch running endpoints to another version of their index."""
    return Output(verbs.deploy(**given(config)), partial(display.deployed, target=config.target))


@index_app.command("search")
@app.command("search")
@with_json
@options_of(SearchConfig, "target", "queries")
def search(config: SearchConfig) -> Output:
    """Search an index or a running endpoint."""
    from raycol.retrieval import search as run

    # A short process: collecting garbage among torch's million objects takes a fifth of the import.
    with without_gc():
        results = run(config)
    return Output([{"query": hits.query, "hits": hits} for hits in results], lambda _: _show_hits(results))


def _show_hits(results: Results) -> None:
    for hits in results:
        display.hits(hits.query, hits)


app.command("doctor")(doctor)


@app.command()
@with_json
@options_of(EvaluateConfig, "data")
def evaluate(config: EvaluateConfig) -> Output:
    """Evaluate models, indexes, endpoints and runs on test collections, and compare them."""
    return Output(verbs.evaluate(**given(config)), lambda result: display.evaluation(result, config.out))


@app.command()
@with_json
@options_of(StudyConfig, "name", "data")
def study(config: StudyConfig) -> Output:
    """Run an experiment of many cells on test collections. Run again, the same command continues."""
    return Output(verbs.study(**given(config)), display.study)
