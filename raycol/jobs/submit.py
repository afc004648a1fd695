"""`raycol submit`: check a job locally, then submit it, or attach to the same job if it exists."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycol.core.config import Config
from raycol.core.version import __version__
from raycol.errors import InputError, RaycolError
from raycol.jobs.cluster import Cluster, DuplicateJobError
from raycol.jobs.connection import auth_headers, dashboard_address
from raycol.jobs.environment import runtime_env
from raycol.jobs.job import SubmittedJob, choose_attempt, job_name
from raycol.jobs.package import Package, pack, respects_gitignore, size_limit
from raycol.jobs.paths import check_paths
from raycol.jobs.verbs import VERBS, Verb, uris_of

# Another client may submit the same attempt at the same moment, and that attempt may already have failed.
_MAX_ATTEMPTS = 5
# A working directory that has this file is a checkout: its raycol is the one that the job imports.
_RAYCOL = "raycol/__init__.py"


class AddressConfig(Config):
    """Address of a cluster."""

    address: str | None = None
    """The cluster's dashboard, http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, then RAY_ADDRESS."""


class SubmitConfig(AddressConfig):
    """How to submit a job, for all verbs."""

    working_dir: Path | None = None
    """Folder to upload, which the job runs in. Default: the current one, or CONFIG's if that is not below it."""

    exclude: tuple[str, ...] = ()
    """Files not to upload, as in .gitignore. Environments, caches, indexes and checkpoints are always excluded."""

    env: tuple[str, ...] = ()
    """A variable for the job and its workers: NAME=VALUE, or NAME to copy its value from this shell."""

    runtime_env: Path | None = None
    """YAML file of further fields of Ray's runtime environment, such as pip."""

    again: bool = False
    """Run the job again even if it has succeeded."""

    detach: bool = False
    """Return once the job is submitted, without following it."""


@dataclass(frozen=True)
class Submitted:
    """A submitted job, or an existing one to follow.

    Args:
        cluster: that runs it.
        submission_id: its id.
        package: the files of the working directory.
        existing: the job, if it existed before.
        previous: the attempt before this one, if any.
        changed: whether `existing` runs other files than `package`.
    """

    cluster: Cluster
    submission_id: str
    package: Package
    existing: SubmittedJob | None
    previous: SubmittedJob | None
    changed: bool


@dataclass(frozen=True)
class PreparedJob:
    """A checked job, ready to submit."""

    name: str
    entrypoint: str
    package: Package
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def submit(verb_name: str, file: Path, settings: Mapping[str, Any], config: SubmitConfig) -> Submitted:
    """Check a job and submit it, or return the existing job of the same settings.

    Args:
        verb_name: one of `VERBS`.
        file: its configuration, inside the working directory if one is named.
        settings: settings from the command line, which override the file's.
        config: how to submit it.

    Raises:
        InputError: a check failed; nothing was submitted.
    """
    prepared = prepare(verb_name, file, settings, config)
    address, headers = dashboard_address(config.address), auth_headers()
    cluster = Cluster(address, headers)
    for _ in range(_MAX_ATTEMPTS):
        jobs = cluster.jobs()
        attempt = choose_attempt(jobs, prepared.name, again=config.again)
        if existing := attempt.existing:
            if config.again:
                raise InputError(f"job {existing.id} is {existing.status}; stop it first, or leave out --again")
            changed = _has_changed(prepared.package, existing)
            return Submitted(cluster, existing.id, prepared.package, existing, None, changed)
        _check_no_conflict(jobs, prepared)
        try:
            environment = prepared.runtime_env
            if not prepared.package.has(_RAYCOL):
                modules = [cluster.upload_raycol(), *environment.get("py_modules", [])]
                environment = {**environment, "py_modules": modules}
            cluster.submit(prepared.entrypoint, attempt.submission_id, environment, prepared.metadata)
        except DuplicateJobError:
            continue
        return Submitted(cluster, attempt.submission_id, prepared.package, None, attempt.previous, changed=False)
    raise RaycolError(f"{address}: other clients submit {prepared.name} at the same time; run the command again")


def prepare(verb_name: str, file: Path, settings: Mapping[str, Any], config: SubmitConfig) -> PreparedJob:
    """Run all checks that do not need the cluster."""
    verb = VERBS[verb_name]
    verb_config = verb.config.load(file, settings)
    package = pack(config.working_dir or _default_working_dir(file), config.exclude)
    config_path = _path_in_package(file, package)
    check_paths(verb, verb_config, package, str(file))
    package.check_size(size_limit())
    return PreparedJob(
        name=job_name(verb_name, verb_config),
        entrypoint=shlex.join(["python", "-m", "raycol", *verb.command, "--config", config_path, *_options(settings)]),
        package=package,
        runtime_env=runtime_env(package, config.env, config.runtime_env),
        metadata={
            "raycol": __version__,
            "verb": verb_name,
            "config": config_path,
            "writes": _output(verb, verb_config),
        },
    )


def _default_working_dir(file: Path) -> Path:
    """The current folder if the configuration is below it, as in a checkout; else the configuration's own folder."""
    return Path() if file.resolve().is_relative_to(Path().resolve()) else file.parent


def _path_in_package(file: Path, package: Package) -> str:
    """The path of a configuration relative to the working directory. Raises `InputError` if it is not uploaded."""
    try:
        path = file.absolute().resolve().relative_to(package.folder.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{file}: outside of the working directory {package.folder}, so it is not uploaded; move it there, or "
            "name another one with --working-dir"
        ) from None
    if not package.has(path):
        raise InputError(
            f"{file}: excluded from the upload by .gitignore, .rayignore or --exclude; the job needs it, so remove "
            "that pattern"
        )
    return path


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of the entry point."""
    options: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                options += [f"--{flag}={item}"]
    return options


def _output(verb: Verb, config: Config) -> str:
    """The URI that a job writes to; empty if it writes none."""
    return next((uri.rstrip("/") for _, uri in uris_of(config, verb.writes)), "")


def _check_no_conflict(jobs: list[SubmittedJob], prepared: PreparedJob) -> None:
    """Refuse a job whose output another active job writes: one would overwrite the other, or fail at its commit."""
    output, verb = prepared.metadata["writes"], prepared.metadata["verb"]
    for job in jobs:
        concurrent = VERBS[verb].concurrent and job.metadata.get("verb") == verb
        if output and job.active and job.metadata.get("writes") == output and not concurrent:
            raise InputError(
                f"{output}: job {job.id}, of other settings, is {job.status} and writes there; wait for it, or stop "
                f"it with `raycol jobs stop {job.id}`"
            )


def _has_changed(package: Package, existing: SubmittedJob) -> bool:
    """Whether the working directory's files differ from those that an existing job runs."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import get_uri_for_directory

    excludes = [*get_runtime_env_default_excludes(), *package.excludes]
    current = get_uri_for_directory(str(package.folder), include_gitignore=respects_gitignore(), excludes=excludes)
    return bool(existing.package and existing.package != current)
