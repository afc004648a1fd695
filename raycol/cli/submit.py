"""`raycol submit VERB CONFIG`: a command for each verb that can be a job, with the verb's own options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raycol.cli.options import option_parameters
from raycol.core.escaping import echo, printable_log
from raycol.core.progress import console
from raycol.jobs.cluster import Cluster
from raycol.jobs.follow import follow
from raycol.jobs.job import SubmittedJob
from raycol.jobs.package import mib
from raycol.jobs.submit import SubmitConfig, Submitted, submit
from raycol.jobs.verbs import VERBS, Verb

# What a shell says of a command that was interrupted.
_INTERRUPTED = 130

submit_app = typer.Typer(
    help="Send a long verb to a Ray cluster as a job, and follow it. The same job again is found again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_CONFIG = inspect.Parameter(
    "file",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        Path,
        typer.Argument(help="YAML file of the job's settings, in the working directory.", metavar="CONFIG"),
    ],
)


def _command_of(name: str, verb: Verb) -> Callable[..., None]:
    def command(file: Path, **values: Any) -> None:
        given = {key: value for key, value in values.items() if value not in (None, [], ())}
        sending = {key: given.pop(key) for key in list(given) if key in SubmitConfig.model_fields}
        config = SubmitConfig.load(None, sending)
        follow_submitted(submit(name, file, given, config), detach=config.detach)

    parameters = [_CONFIG, *option_parameters(SubmitConfig), *option_parameters(verb.config, verb.positional)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = f"{verb.summary} The options of `raycol {_name(name)}` win over the file; see there."
    return command


def _name(verb: str) -> str:
    return {"index": "index build", "append": "index append", "compact": "index compact"}.get(verb, verb)


for _verb_name, _verb in VERBS.items():
    submit_app.command(_verb_name)(_command_of(_verb_name, _verb))


def follow_submitted(submitted: Submitted, *, detach: bool) -> None:
    """Say what was sent or found, then follow it to its end, and exit as it does."""
    cluster, job_id = submitted.cluster, submitted.submission_id
    if cluster.open_to_all:
        _say(
            f"warning: {cluster.address} asks for no token, so whoever reaches it runs code on it; start its nodes "
            "with RAY_AUTH_MODE=token"
        )
    if submitted.there:
        _say(f"job {job_id} is there already ({submitted.there.status}): nothing is sent")
        if submitted.changed:
            _say("warning: it runs other files than the working directory has now")
    else:
        package = submitted.package
        _say(f"sent {mib(package.bytes)} in {len(package.files)} files of {package.folder}")
        for place, kind in package.left_out.items():
            _say(f"not sent: {place} ({kind})")
        if submitted.before:
            _say(f"the attempt before, {submitted.before.id}, has {_fate(submitted.before)}")
        _say(f"job {job_id}")
    if detach:
        echo(job_id)
        _say(_how_to_come_back(cluster, job_id))
        return
    follow_to_the_end(cluster, job_id)


def follow_to_the_end(cluster: Cluster, job_id: str) -> None:
    """Print a job's log until it ends and exit as it does; an interruption leaves it running."""
    try:
        job = follow(cluster, job_id, _write)
    except KeyboardInterrupt:
        _say(f"\ndetached; the job goes on. {_how_to_come_back(cluster, job_id)}")
        raise typer.Exit(_INTERRUPTED) from None
    took = f", in {job.seconds:,.0f} s" if job.seconds is not None else ""
    _say(f"job {job_id} has {_fate(job)}{took}")
    raise typer.Exit(job.exit_code)


def _fate(job: SubmittedJob) -> str:
    if job.status == "SUCCEEDED":
        return "succeeded"
    if job.status == "STOPPED":
        return "been stopped"
    if job.driver_code:
        return f"failed with exit code {job.driver_code}"
    return f"failed: {(job.message.strip() or 'no reason given').splitlines()[0]}"


def _how_to_come_back(cluster: Cluster, job_id: str) -> str:
    where = f"--address {cluster.address}"
    return (
        f"Come back with the same command, or with: raycol jobs logs {job_id} --follow {where} "
        f"(and stop it with: raycol jobs stop {job_id} {where})"
    )


def _write(text: str) -> None:
    echo(printable_log(text), nl=False)


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
