"""`raycol doctor`: a table of what was checked, and below it how to mend what is wrong."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raycol.cli.options import options_of
from raycol.cli.submit import follow_to_the_end
from raycol.core.escaping import printable
from raycol.core.progress import progress
from raycol.doctor.checks import Finding
from raycol.doctor.config import DoctorConfig
from raycol.doctor.reach import check_answers
from raycol.errors import InputError
from raycol.jobs.address import dashboard_address, is_dashboard
from raycol.jobs.cluster import Cluster
from raycol.jobs.identity import PREFIX
from raycol.jobs.token import MODE, auth_headers
from raycol.storage import absolute

# The table of a job is a log's, and a terminal's in the end.
_PIPE_WIDTH = 110
_STATES = {"ok": Text("ok", "green"), "wrong": Text("WRONG", "red"), "not checked": Text("-", "yellow")}


@options_of(DoctorConfig)
def doctor(config: DoctorConfig) -> None:
    """Check a cluster before a job does: versions, storage, GPUs, room, authentication, clocks."""
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if address and is_dashboard(address):
        _from_outside(config, address)
    if address:
        check_answers(address)
        # Read by Ray when it is imported, which nothing has done yet.
        os.environ["RAY_ADDRESS"] = address
        if auth_headers():
            os.environ[MODE] = "token"
    from raycol.doctor.run import examine

    with progress("Examining"):
        findings = examine(config)
    show(findings)
    raise typer.Exit(1 if any(finding.state == "wrong" for finding in findings) else 0)


def _from_outside(config: DoctorConfig, address: str) -> None:
    """Have the cluster's head examine it, with the raycol that is installed there, as a job."""
    named = [
        *(("--shared", place) for place in config.shared),
        *([("--plan", str(config.plan))] if config.plan else []),
    ]
    for option, place in named:
        if absolute(place) != place:
            raise InputError(
                f"{option} {place}: a relative path, which the cluster's nodes do not have; expected an absolute one, "
                "or a URI"
            )
    cluster = Cluster(dashboard_address(address), auth_headers())
    words = ["python", "-m", "raycol", "doctor", f"--wait-s={config.wait_s:g}"]
    words += [f"--shared={place}" for place in config.shared]
    words += [f"--plan={config.plan}"] if config.plan else []
    job_id = f"{PREFIX}-doctor-{secrets.token_hex(8)}"
    cluster.submit(shlex.join(words), job_id, {}, {"verb": "doctor"})
    follow_to_the_end(cluster, job_id)


def show(findings: Sequence[Finding]) -> None:
    """Print findings, and how to mend what is wrong."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(_STATES[finding.state], printable(finding.check), printable(finding.found))
    output = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    output.print(table)
    for finding in findings:
        if finding.state == "wrong":
            line = Text.assemble((printable(finding.check), "red"), ": ", printable(finding.mend))
            output.print(line, soft_wrap=True)
