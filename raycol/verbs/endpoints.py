"""Verbs that serve and search, submit jobs and examine the cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycol.core.progress import progress
from raycol.demo.config import DemoConfig
from raycol.doctor.config import DoctorConfig, check_reachable
from raycol.errors import InputError
from raycol.index.search.effort import Effort
from raycol.jobs.connection import is_dashboard
from raycol.jobs.submit import SubmitConfig
from raycol.retrieval import SearchConfig
from raycol.serving.config import ServeConfig
from raycol.serving.deploy import DeployConfig
from raycol.verbs.arguments import documented, settings_of

if TYPE_CHECKING:
    from raycol.client.schema import VersionResponse
    from raycol.doctor.checks import Finding
    from raycol.jobs.submit import Submitted
    from raycol.retrieval import Results
    from raycol.serving.run import RunningEndpoint


@documented(ServeConfig)
def serve(
    index: str | Path,
    *,
    model: str | Path | None = None,
    version: int | None = None,
    shards: int = 1,
    replicas: int = 1,
    max_replicas: int | None = None,
    host: str | None = None,
    port: int = 8000,
    timeout_s: float = 30.0,
    max_requests: int = 64,
    keys: str | Path | None = None,
    open: bool = False,  # noqa: A002
    cors: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
) -> RunningEndpoint:
    """Serve an index over HTTP on this machine, until `stop`, the end of a `with` block or of this process.

    with raycol.serve("my-index", port=0) as endpoint:
        raycol.Retriever(endpoint.url).search("how do I parse a date?")
    """
    from raycol.serving.run import start

    config = settings_of(ServeConfig, "serve", locals())
    with progress("Starting the endpoint"):
        return start(config)


@documented(DeployConfig)
def deploy(
    target: str,
    *,
    version: int | None = None,
) -> VersionResponse:
    """Switch running endpoints to another version of their index."""
    from raycol.serving.deploy import deploy as run

    return run(settings_of(DeployConfig, "deploy", locals()))


@documented(SearchConfig)
def search(
    target: str | Path,
    queries: Sequence[str],
    k: int = 10,
    *,
    model: str | Path | None = None,
    filter: str | None = None,  # noqa: A002
    ids: Sequence[str] | None = None,
    trust: bool = False,
    effort: Effort | None = None,
    n_probe: int | None = None,
    n_rescore: int | None = None,
    device: str = "cpu",
) -> Results:
    """Search an index or a running endpoint; `Retriever` keeps it open for further searches."""
    from raycol.retrieval import search as run

    if isinstance(queries, str):
        raise InputError(f"queries is {queries!r:.60}; expected a list of texts")
    return run(settings_of(SearchConfig, "search", {**locals(), "target": str(target), "queries": list(queries)}))


@documented(DoctorConfig)
def run_doctor(
    *,
    address: str | None = None,
    shared: Sequence[str | Path] = (),
    plan: str | Path | None = None,
    wait_s: float = 120,
) -> list[Finding]:
    """Check a cluster before a job fails on it: versions, storage, GPUs, memory, disk, authentication, clocks."""
    config = settings_of(DoctorConfig, "run_doctor", locals())
    if address := config.address or os.environ.get("RAY_ADDRESS"):
        if is_dashboard(address):
            raise InputError(
                f"{address}: through a dashboard the checks run as a job, which the command raycol doctor "
                "does; in Python, on a machine of the cluster, pass auto or HOST:6379"
            )
        check_reachable(address)
        # Ray reads this on import.
        os.environ["RAY_ADDRESS"] = address
    from raycol.doctor.run import examine

    with progress("Checking"):
        return examine(config)


@documented(DemoConfig)
def run_demo(
    *,
    corpus: str | Path | None = None,
    out: str | Path = "raycol-demo",
    documents: int = 2000,
    queries: int = 250,
    steps: int = 20,
    batch_size: int = 32,
    train_split: str = "train",
    test_split: str = "test",
    shards: int = 2,
    port: int = 0,
    keep_serving: bool = False,
    seed: int = 0,
) -> None:
    """Train, index, serve and search on this machine, over its own docstrings; prints its results."""
    from raycol.demo.run import run_demo as run

    run(settings_of(DemoConfig, "run_demo", locals()))


@documented(SubmitConfig)
def submit(
    verb: str,
    file: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    working_dir: str | Path | None = None,
    exclude: Sequence[str] = (),
    env: Sequence[str] = (),
    runtime_env: str | Path | None = None,
    again: bool = False,
    detach: bool = False,
) -> Submitted:
    """Submit a long verb to a Ray cluster as a job, or return the existing job of the same settings.

    Args:
        verb: train, sweep, mine, score, index, append, compact or evaluate.
        file: YAML file of the job's settings.
        settings: settings that override the file's.
    """
    from raycol.jobs.submit import submit as run

    return run(verb, Path(file), settings or {}, settings_of(SubmitConfig, "submit", locals()))
