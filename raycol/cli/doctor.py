"""`raycol doctor`: print a table of the checks, then how to fix the failed ones."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raycol.cli.options import options_of
from raycol.cli.output import Output, with_json
from raycol.cli.submit import follow_and_exit
from raycol.core.arguments import as_options
from raycol.core.escaping import printable
from raycol.core.progress import progress
from raycol.doctor.checks import Finding
from raycol.doctor.config import DoctorConfig, check_reachable
from raycol.errors import InputError
from raycol.jobs.cluster import Cluster
from raycol.jobs.connection import MODE, auth_headers, dashboard_address, is_dashboard
from raycol.jobs.job import PREFIX
from raycol.storage import absolute

# Table width in a job's log, which is usually read in a terminal.
_PIPE_WIDTH = 110
_STATES = {"ok": Text("ok", "green"), "failed": Text("FAILED", "red"), "not checked": Text("-", "yellow")}


@with_json
@options_of(DoctorConfig)
def doctor(config: DoctorConfig) -> Output:
    """Check a cluster before a job fails on it: versions, storage, GPUs, memory, disk, authentication, clocks."""
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if address and is_dashboard(address):
        reason = "these checks run as a job of the cluster, whose log is printed; run raycol doctor --json on the head"
        return Output(None, lambda _: _run_on_head(config, address), no_json=reason)
    if address:
        check_reachable(address)
        # Ray reads this on import; nothing has imported it yet.
        os.environ["RAY_ADDRESS"] = address
        if auth_headers():
            os.environ[MODE] = "token"
    from raycol.doctor.run import examine

    with progress("Checking"):
        findings = examine(config)
    return Output(findings, show, exit_code=1 if any(finding.state == "failed" for finding in findings) else 0)


def _run_on_head(config: DoctorConfig, address: str) -> None:
    """Run the checks as a job on the cluster's head, with the raycol installed there."""
    options = [
        *(("--shared", uri) for uri in config.shared),
        *([("--plan", str(config.plan))] if config.plan else []),
    ]
    for option, uri in options:
        if absolute(uri) != uri:
            raise InputError(
                f"{option} {uri}: a relative path, which the cluster's nodes cannot resolve; expected an absolute "
                "one, or a URI"
            )
    cluster = Cluster(dashboard_address(address), auth_headers())
    command = ["python", "-m", "raycol", "doctor", f"--wait-s={config.wait_s:g}"]
    command += [f"{option}={uri}" for option, uri in options]
    job_id = f"{PREFIX}-doctor-{secrets.token_hex(8)}"
    cluster.submit(shlex.join(command), job_id, {}, {"verb": "doctor"})
    follow_and_exit(cluster, job_id)


def show(findings: Sequence[Finding]) -> None:
    """Print the findings, and how to fix the failed ones."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "result"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(_STATES[finding.state], printable(finding.check), printable(as_options(finding.detail)))
    output = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    output.print(table)
    for finding in findings:
        if finding.state == "failed":
            line = Text.assemble((printable(finding.check), "red"), ": ", printable(finding.fix))
            output.print(line, soft_wrap=True)
