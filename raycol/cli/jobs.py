"""`raycol jobs ...`: the jobs of a cluster."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raycol.cli.output import Output, with_json
from raycol.cli.submit import follow_and_exit
from raycol.cli.usage import CommandGroup
from raycol.core.escaping import echo, printable, printable_log
from raycol.errors import RaycolError
from raycol.jobs.cluster import Cluster
from raycol.jobs.connection import auth_headers, dashboard_address
from raycol.jobs.job import PREFIX, SubmittedJob

# Seconds to wait for a job to stop. Ray kills it after 3; the rest is for the cluster to record it.
_STOP_TIMEOUT_S = 60.0
_PIPE_WIDTH = 400

jobs_app = typer.Typer(help="List, read and stop the jobs of a cluster.", cls=CommandGroup, rich_markup_mode=None)

AddressOption = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, then RAY_ADDRESS.",
        show_default=False,
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)]


def _cluster(address: str | None) -> Cluster:
    return Cluster(dashboard_address(address), auth_headers())


@jobs_app.command("list")
@with_json
def list_jobs(
    address: AddressOption = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="Also list jobs that raycol did not submit.")] = False,
) -> Output:
    """List the submitted jobs, oldest first."""
    jobs = [job for job in _cluster(address).jobs() if all_jobs or job.id.startswith(f"{PREFIX}-")]
    return Output(jobs, _show_jobs)


def _show_jobs(jobs: list[SubmittedJob]) -> None:
    if not jobs:
        echo("no jobs")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "status", "started", "took", "writes to"):
        # Ids must be copyable: never fold or truncate them.
        table.add_column(column, no_wrap=column != "writes to", overflow="fold")
    for job in jobs:
        cells = (
            job.id,
            job.status,
            f"{job.started.astimezone():%Y-%m-%d %H:%M}" if job.started else "",
            str(timedelta(seconds=round(job.seconds))) if job.seconds is not None else "",
            job.metadata.get("writes", ""),
        )
        table.add_row(*map(printable, cells))
    # Programs that read the output expect one job a line.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


@jobs_app.command("logs")
def logs(
    job: JobArgument,
    address: AddressOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the job until it ends; exit with its code.")
    ] = False,
) -> None:
    """Print the log of a job."""
    cluster = _cluster(address)
    cluster.job(job)
    if follow:
        follow_and_exit(cluster, job)
    echo(printable_log(cluster.logs(job)), nl=False)


@jobs_app.command("stop")
@with_json
def stop(job: JobArgument, address: AddressOption = None) -> Output:
    """Stop a job and wait until it has ended. Submitted again, it resumes."""
    cluster = _cluster(address)
    state = cluster.job(job)
    if not state.active:
        return Output(state, lambda state: echo(f"{job}: has already ended ({state.status})"))
    cluster.stop(job)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while (state := cluster.job(job)).active:
        if time.monotonic() > deadline:
            raise RaycolError(f"job {job}: still {state.status} {_STOP_TIMEOUT_S:g} seconds after the request to stop")
        time.sleep(0.3)
    return Output(state, lambda state: echo(f"{job}: {state.status}"))
