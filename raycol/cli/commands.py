"""The commands. Each parses, calls one function, and prints what it returns."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import raycol
from raycol import show
from raycol.cli.options import options_of
from raycol.demo.config import DemoConfig
from raycol.errors import IndexCorruptError
from raycol.evaluation.evaluate import EvaluateConfig
from raycol.indexing.config import IndexConfig
from raycol.progress import progress
from raycol.search import SearchConfig
from raycol.serving.config import ServeConfig
from raycol.training.config import TrainConfig

app = typer.Typer(
    help="Train, index and serve late-interaction (ColBERT-style) retrieval on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
index_app = typer.Typer(help="Build an index and look at one.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(index_app, name="index")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raycol {raycol.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` acts on --debug, wherever it stands."""


@app.command()
@options_of(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Train, index, serve and search on this machine, from the docstrings it has."""
    from raycol.demo.run import run_demo

    run_demo(config)


@app.command()
@options_of(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train an encoder on Ray Train."""
    from raycol.training.train import train as run

    with progress("Training") as report:
        done = run(config, report)
    show.trained(done)


@index_app.command("build")
@options_of(IndexConfig, "corpus")
def build(config: IndexConfig) -> None:
    """Encode a corpus into an index on Ray Data."""
    from raycol.indexing.build import build_index

    with progress("Indexing") as report:
        done = build_index(config, report)
    show.built(done)


@index_app.command("info")
def info(index: Annotated[Path, typer.Argument(help="Folder of the index.")]) -> None:
    """Print what an index holds and what it takes."""
    from raycol.index import Index

    show.stats(Index.open(index))


@index_app.command("verify")
def verify(index: Annotated[Path, typer.Argument(help="Folder of the index.")]) -> None:
    """Read every byte of an index and check it against the manifest."""
    from raycol.index.manifest import read_manifest
    from raycol.index.verify import verify_index

    manifest = read_manifest(index)
    problems = verify_index(index, manifest)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise IndexCorruptError(f"{index}: {len(problems)} files are not as the manifest promises")
    typer.echo(f"{index}: version {manifest.version} is whole")


@app.command()
@options_of(ServeConfig, "index")
def serve(config: ServeConfig) -> None:
    """Serve an index over HTTP on this machine, until interrupted."""
    from raycol.serving.run import serving, wait_for_interrupt

    with ExitStack() as running:
        with progress("Starting the endpoint"):
            endpoint = running.enter_context(serving(config))
        show.serving(endpoint)
        wait_for_interrupt()
        with progress("Stopping"):
            running.close()


@app.command()
@options_of(SearchConfig, "target", "queries")
def search(config: SearchConfig) -> None:
    """Search an index folder or a running endpoint."""
    from raycol.search import search as run

    for query, hits in zip(config.queries, run(config), strict=True):
        show.hits(query, hits)


@app.command()
@options_of(EvaluateConfig, "data")
def evaluate(config: EvaluateConfig) -> None:
    """Measure a model, or an index, on a BEIR folder."""
    from raycol.evaluation.evaluate import evaluate as run

    with progress("Evaluating") as report:
        done = run(config, report)
    show.evaluation(done)
