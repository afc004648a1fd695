"""`raycol submit`: everything is checked here first, then sent; a job that is there already is found again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raycol
from raycol.core.config import Config
from raycol.errors import InputError, RaycolError
from raycol.jobs.address import dashboard_address
from raycol.jobs.cluster import Cluster, DuplicateJobError
from raycol.jobs.environment import runtime_env
from raycol.jobs.identity import Choice, choose, job_name
from raycol.jobs.job import SubmittedJob
from raycol.jobs.package import Package, pack, respects_gitignore, size_limit
from raycol.jobs.paths import check_paths
from raycol.jobs.token import auth_headers
from raycol.jobs.verbs import VERBS, Verb, places

# Of two that submit at once, one attaches to the other's; then the other's may have failed, and so on.
_TRIES = 5


class AddressConfig(Config):
    """Where a cluster is."""

    address: str | None = None
    """The cluster's dashboard, http://HEAD:8265; by default what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says."""


class SubmitConfig(AddressConfig):
    """How a job is sent, whatever it does."""

    working_dir: Path = Path()
    """Folder that the job is sent and runs in a copy of: a checkout of raycol, with jobs/ and your configuration."""

    exclude: tuple[str, ...] = ()
    """What to leave out of it, as in .gitignore; environments, caches, indexes and checkpoints are left out anyway."""

    env: tuple[str, ...] = ()
    """A variable for the job and its workers: NAME=VALUE, or NAME to take its value from here."""

    runtime_env: Path | None = None
    """YAML file of further fields of Ray's runtime environment, such as pip."""

    again: bool = False
    """Run it once more although it has succeeded."""

    detach: bool = False
    """Return when the job is sent, without following it."""


@dataclass(frozen=True)
class Submitted:
    """A job on its way.

    Args:
        cluster: where it is.
        submission_id: what it is called there.
        package: what it was, or would have been, sent.
        there: the job, where it was there before.
        before: the attempt before this one, where there was one.
        changed: whether `there` runs other files than those of the working directory now.
    """

    cluster: Cluster
    submission_id: str
    package: Package
    there: SubmittedJob | None
    before: SubmittedJob | None
    changed: bool


@dataclass(frozen=True)
class Order:
    """A job that was checked and can be sent."""

    name: str
    entrypoint: str
    package: Package
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def submit(verb_name: str, file: Path, settings: Mapping[str, Any], config: SubmitConfig) -> Submitted:
    """Check a job, send it, or find it on the cluster.

    Args:
        verb_name: one of `VERBS`.
        file: its configuration, inside the working directory.
        settings: settings that win over the file, as the command line has them.
        config: how it is sent.

    Raises:
        InputError: anything that is wrong with it; nothing was sent.
    """
    order = prepare(verb_name, file, settings, config)
    address, headers = dashboard_address(config.address), auth_headers()
    cluster = Cluster(address, headers)
    for _ in range(_TRIES):
        jobs = cluster.jobs()
        choice = choose(jobs, order.name, again=config.again)
        if choice.there:
            if config.again:
                raise InputError(
                    f"job {choice.submission_id} is {choice.there.status}; stop it first, or leave out --again"
                )
            return Submitted(cluster, choice.submission_id, order.package, choice.there, None, _changed(order, choice))
        _check_alone(jobs, order)
        try:
            cluster.submit(order.entrypoint, choice.submission_id, order.runtime_env, order.metadata)
        except DuplicateJobError:
            continue
        return Submitted(cluster, choice.submission_id, order.package, None, choice.before, changed=False)
    raise RaycolError(f"{address}: others submit {order.name} at the same time; run the command again")


def prepare(verb_name: str, file: Path, settings: Mapping[str, Any], config: SubmitConfig) -> Order:
    """Check all that can be checked without the cluster."""
    verb = VERBS[verb_name]
    wanted = verb.config.load(file, settings)
    package = pack(config.working_dir, config.exclude)
    script = f"jobs/{verb_name}.py"
    if not package.has(script):
        raise InputError(
            f"{package.folder}: no {script} in what is sent; expected a checkout of raycol there, or name one with "
            "--working-dir"
        )
    inside = _inside(file, package)
    check_paths(verb, wanted, package, str(file))
    package.check_size(size_limit())
    return Order(
        name=job_name(verb_name, wanted),
        entrypoint=shlex.join(["python", script, "--config", inside, *_options(settings)]),
        package=package,
        runtime_env=runtime_env(package, config.env, config.runtime_env),
        metadata={
            "raycol": raycol.__version__,
            "verb": verb_name,
            "config": inside,
            "writes": _writes(verb, wanted),
        },
    )


def _inside(file: Path, package: Package) -> str:
    """A configuration's path in the working directory."""
    try:
        inside = file.absolute().resolve().relative_to(package.folder.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{file}: outside of the working directory {package.folder}, which is what the job is sent; move it "
            "there, or name another one with --working-dir"
        ) from None
    if not package.has(inside):
        raise InputError(
            f"{file}: left out of what is sent (.gitignore, .rayignore or --exclude); expected it to be sent"
        )
    return inside


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the entry point's options."""
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [f"--{flag}={item}"]
    return words


def _writes(verb: Verb, config: Config) -> str:
    """Where a job's results go; empty where it has none."""
    return next((place.rstrip("/") for _, place in places(config, verb.writes)), "")


def _check_alone(jobs: list[SubmittedJob], order: Order) -> None:
    """Most jobs that write to one place would spoil each other's work, or one of them would fail at its end."""
    place, verb = order.metadata["writes"], order.metadata["verb"]
    for job in jobs:
        together = VERBS[verb].together and job.metadata.get("verb") == verb
        if place and job.active and job.metadata.get("writes") == place and not together:
            raise InputError(
                f"{place}: job {job.id} is {job.status} and writes there, with other settings; wait for it, or stop "
                f"it with `raycol jobs stop {job.id}`"
            )


def _changed(order: Order, choice: Choice) -> bool:
    """Whether the working directory is another one than that of the job that is there."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import get_uri_for_directory

    excludes = [*get_runtime_env_default_excludes(), *order.package.excludes]
    now = get_uri_for_directory(str(order.package.folder), include_gitignore=respects_gitignore(), excludes=excludes)
    return bool(choice.there and choice.there.package and choice.there.package != now)
