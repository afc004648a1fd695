"""`raycol submit VERB CONFIG`: one command for each verb that can be a job, with the verb's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raycol.cli.options import option_parameters
from raycol.cli.usage import CommandGroup
from raycol.core.escaping import echo, printable_log
from raycol.core.progress import console
from raycol.jobs.cluster import Cluster
from raycol.jobs.follow import follow
from raycol.jobs.job import SubmittedJob
from raycol.jobs.package import mib
from raycol.jobs.submit import SubmitConfig, Submitted, submit
from raycol.jobs.verbs import VERBS, Verb

# 128 + SIGINT, as shells report it.
_INTERRUPTED = 130

submit_app = typer.Typer(
    help="Submit a long verb to a Ray cluster as a job and follow it. Attaches to the job if it exists.",
    cls=CommandGroup,
    rich_markup_mode=None,
)

_CONFIG = inspect.Parameter(
    "file",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        Path,
        typer.Argument(help="YAML file of the job's settings.", metavar="CONFIG"),
    ],
)


def _command_of(name: str, verb: Verb) -> Callable[..., None]:
    def command(file: Path, **values: Any) -> None:
        settings = {key: value for key, value in values.items() if value not in (None, [], ())}
        submit_settings = {key: settings.pop(key) for key in list(settings) if key in SubmitConfig.model_fields}
        config = SubmitConfig.load(None, submit_settings)
        follow_submitted(submit(name, file, settings, config), detach=config.detach)

    parameters = [_CONFIG, *option_parameters(SubmitConfig), *option_parameters(verb.config, verb.positional)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = f"{verb.summary} Options of `raycol {' '.join(verb.command)}` override the file; see its help."
    return command


for _verb_name, _verb in VERBS.items():
    submit_app.command(_verb_name)(_command_of(_verb_name, _verb))


def follow_submitted(submitted: Submitted, *, detach: bool) -> None:
    """Print what was submitted or already exists, then follow the job and exit with its code."""
    cluster, job_id = submitted.cluster, submitted.submission_id
    if cluster.unauthenticated:
        _print(
            f"warning: {cluster.address} requires no token: anyone who can connect can run code on it; start its "
            "nodes with RAY_AUTH_MODE=token"
        )
    if submitted.existing:
        _print(f"job {job_id} exists ({submitted.existing.status}): nothing is submitted")
        if submitted.changed:
            _print("warning: the working directory has changed since that job was submitted")
    else:
        package = submitted.package
        _print(f"uploaded {mib(package.bytes)} in {len(package.files)} files of {package.folder}")
        for path, kind in package.left_out.items():
            _print(f"not uploaded: {path} ({kind})")
        if submitted.previous:
            _print(f"the previous attempt, {submitted.previous.id}, {_outcome(submitted.previous)}")
        _print(f"job {job_id}")
    if detach:
        echo(job_id)
        _print(_how_to_reattach(cluster, job_id))
        return
    follow_and_exit(cluster, job_id)


def follow_and_exit(cluster: Cluster, job_id: str) -> None:
    """Print a job's log until it ends, then exit with its code. An interruption leaves the job running."""
    try:
        job = follow(cluster, job_id, _write)
    except KeyboardInterrupt:
        _print(f"\ndetached; the job keeps running. {_how_to_reattach(cluster, job_id)}")
        raise typer.Exit(_INTERRUPTED) from None
    duration = f", after {job.seconds:,.0f} s" if job.seconds is not None else ""
    _print(f"job {job_id} {_outcome(job)}{duration}")
    raise typer.Exit(job.exit_code)


def _outcome(job: SubmittedJob) -> str:
    if job.status == "SUCCEEDED":
        return "succeeded"
    if job.status == "STOPPED":
        return "was stopped"
    if job.driver_code:
        return f"failed with exit code {job.driver_code}"
    return f"failed: {(job.message.strip() or 'no reason given').splitlines()[0]}"


def _how_to_reattach(cluster: Cluster, job_id: str) -> str:
    address = f"--address {cluster.address}"
    return (
        f"Reattach with the same command, or with: raycol jobs logs {job_id} --follow {address} "
        f"(stop it with: raycol jobs stop {job_id} {address})"
    )


def _write(text: str) -> None:
    echo(printable_log(text), nl=False)


def _print(text: str) -> None:
    console.print(text, soft_wrap=True)
