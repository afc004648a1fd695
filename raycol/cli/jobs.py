"""`raycol jobs ...`: the jobs of a cluster."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raycol.cli.submit import follow_to_the_end
from raycol.core.escaping import echo, printable, printable_log
from raycol.errors import RaycolError
from raycol.jobs.address import dashboard_address
from raycol.jobs.cluster import Cluster
from raycol.jobs.identity import PREFIX
from raycol.jobs.token import auth_headers

# Ray gives a job three seconds to end before it kills it; the rest is the cluster's own.
_STOP_S = 60.0
_PIPE_WIDTH = 400

jobs_app = typer.Typer(help="List, read and stop the jobs of a cluster.", no_args_is_help=True, rich_markup_mode=None)

AddressOption = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, http://HEAD:8265; by default what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says.",
        show_default=False,
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)]


def _cluster(address: str | None) -> Cluster:
    return Cluster(dashboard_address(address), auth_headers())


@jobs_app.command("list")
def list_jobs(
    address: AddressOption = None,
    every: Annotated[bool, typer.Option("--all", help="Those too that raycol did not submit.")] = False,
) -> None:
    """Print the jobs that were submitted, the oldest first."""
    jobs = [job for job in _cluster(address).jobs() if every or job.id.startswith(f"{PREFIX}-")]
    if not jobs:
        echo("no jobs")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "status", "started", "took", "writes to"):
        # Ids are there to be copied: they are never folded or cut.
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
    # A pipe has no width, and what reads it takes a line for a job.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


@jobs_app.command("logs")
def logs(
    job: JobArgument,
    address: AddressOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends, and exit as it does.")] = False,
) -> None:
    """Print what a job has said."""
    cluster = _cluster(address)
    cluster.job(job)
    if follow:
        follow_to_the_end(cluster, job)
    echo(printable_log(cluster.logs(job)), nl=False)


@jobs_app.command("stop")
def stop(job: JobArgument, address: AddressOption = None) -> None:
    """Stop a job and wait until it has ended. Submitted again, it goes on where it was."""
    cluster = _cluster(address)
    before = cluster.job(job)
    if not before.active:
        echo(f"{job}: has ended before ({before.status})")
        return
    cluster.stop(job)
    deadline = time.monotonic() + _STOP_S
    while (now := cluster.job(job)).active:
        if time.monotonic() > deadline:
            raise RaycolError(f"job {job} was asked to stop {_STOP_S:g} seconds ago and is still {now.status}")
        time.sleep(0.3)
    echo(f"{job}: {now.status}")
