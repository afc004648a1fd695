"""The jobs of a cluster, over Ray's `JobSubmissionClient`, whose exceptions become errors that say what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from raycol.distributed.session import set_environment
from raycol.errors import InputError, RaycolError
from raycol.jobs.connection import FROM_ENVIRONMENT, TOKEN_HINT
from raycol.jobs.job import SubmittedJob

# Timeout of the first request. Ray's client has none.
_TIMEOUT_S = 10.0
# Ray's loggers that report every upload and connection.
_NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_RAYCOL_FOLDER = Path(__file__).parents[1]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class DuplicateJobError(RaycolError):
    """A job of this submission id exists: another client submitted it first."""


class Cluster:
    """Client for the jobs of a cluster.

    Args:
        address: from `dashboard_address`.
        headers: from `auth_headers`.

    Raises:
        InputError: the address does not answer, or refuses these headers.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self.address = address
        mode = _authentication_mode(address)
        if mode == "token" and not headers:
            raise InputError(f"{address}: this cluster requires a token, and none is set; {TOKEN_HINT}")
        self.unauthenticated = mode == "disabled"
        set_environment()
        from ray.job_submission import JobSubmissionClient

        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with self._translated_errors(), _without(*FROM_ENVIRONMENT):
                self._client = JobSubmissionClient(address, headers=dict(headers))
        except RaycolError as error:
            raise InputError(str(error)) from None

    def jobs(self) -> list[SubmittedJob]:
        """All submitted jobs, oldest first."""
        with self._translated_errors():
            jobs = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started or datetime.now(UTC), job.id))

    def job(self, submission_id: str) -> SubmittedJob:
        """One job. Raises `InputError` if the cluster has no job of that id."""
        with self._translated_errors(submission_id):
            return _job(self._client.get_job_info(submission_id))

    def submit(
        self, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        """Submit a job.

        Raises:
            DuplicateJobError: a job of that id exists.
        """
        with self._translated_errors():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env, metadata=metadata
            )

    def upload_raycol(self) -> str:
        """Upload this installation of raycol, unless the cluster has it; return its URI, for py_modules.

        A path in py_modules would be packed with the working directory's excludes: `/index`, an index to leave out,
        would match raycol/index.
        """
        with self._translated_errors():
            return str(
                self._client._upload_package_if_needed(
                    str(_RAYCOL_FOLDER),
                    include_gitignore=False,  # an environment's folder is often ignored as a whole
                    include_parent_dir=True,
                    excludes=["__pycache__"],
                )
            )

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop. Ray kills it a few seconds later."""
        with self._translated_errors(submission_id):
            self._client.stop_job(submission_id)

    def logs(self, submission_id: str) -> str:
        """A job's log so far."""
        with self._translated_errors(submission_id):
            return str(self._client.get_job_logs(submission_id))

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Stream a job's log from its beginning until the job ends. Raises `ConnectionError` if it is cut off."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(submission_id):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise ConnectionError(_last_line(error)) from None

    @contextmanager
    def _translated_errors(self, submission_id: str = "") -> Iterator[None]:
        """Raise a `RaycolError` in place of what Ray's client raises."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise InputError(f"{self.address}: the cluster refuses the token; {TOKEN_HINT}") from None
        except (requests.RequestException, ConnectionError) as error:
            raise RaycolError(f"{self.address}: the cluster cannot be reached ({_last_line(error)})") from None
        except RuntimeError as error:
            message = str(error)
            if "already exists" in message:
                raise DuplicateJobError(_last_line(error)) from None
            if submission_id and "status code 404" in message:
                raise InputError(
                    f"no job {submission_id!r} on {self.address}; `raycol jobs list` lists its jobs"
                ) from None
            raise RaycolError(f"{self.address}: {_last_line(error)}") from None


def _authentication_mode(address: str) -> str | None:
    """The cluster's authentication mode, from its public path; None for a Ray without that path.

    Raises:
        InputError: the address does not answer, or not as Ray does.
    """
    expected = "expected a Ray cluster's dashboard; is the cluster up, and the address right (http://HEAD:8265)?"
    # No proxy for loopback, even if the environment names one.
    direct = httpx2.URL(address).host in _LOOPBACK
    try:
        response = httpx2.get(f"{address}/api/authentication_mode", timeout=_TIMEOUT_S, trust_env=not direct)
        if response.status_code == 404:  # an older Ray; Ray's client finds out if it is anything else
            return None
        mode = response.raise_for_status().json()["authentication_mode"]
    except httpx2.HTTPStatusError as error:
        raise InputError(f"{address}: answers {error.response.status_code}; {expected}") from None
    except httpx2.TimeoutException:
        raise InputError(f"{address}: no answer within {_TIMEOUT_S:g} seconds; {expected}") from None
    except httpx2.HTTPError as error:
        raise InputError(f"{address}: cannot be reached ({_last_line(error)}); {expected}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{address}: answers, but not as Ray does; {expected}") from None
    return str(mode).lower()


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables that Ray's client prefers to its address argument."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _job(details: Any) -> SubmittedJob:
    return SubmittedJob(
        id=str(details.submission_id),
        status=str(details.status),
        entrypoint=details.entrypoint,
        started=_datetime(details.start_time),
        ended=_datetime(details.end_time),
        message=details.message or "",
        driver_code=details.driver_exit_code,
        package=(details.runtime_env or {}).get("working_dir", ""),
        metadata=details.metadata or {},
    )


def _datetime(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _last_line(error: BaseException) -> str:
    """The last line of an error's message: of a traceback from the server, the exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(".") if lines else type(error).__name__
