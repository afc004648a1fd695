"""A cluster's jobs, through Ray's client: what it raises becomes an error that says what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2

from raycol.distributed.session import set_environment
from raycol.errors import InputError, RaycolError
from raycol.jobs.address import FROM_ENVIRONMENT
from raycol.jobs.job import SubmittedJob
from raycol.jobs.token import HOW

# Seconds that a cluster has to answer the first request. Ray's own client would wait without end.
_PATIENCE_S = 10.0
# Loggers of Ray's that tell of every upload and connection.
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class DuplicateJobError(RaycolError):
    """A job of this submission id is there already: somebody was quicker."""


class Cluster:
    """The jobs of the cluster at a dashboard's address.

    Args:
        address: from `dashboard_address`.
        headers: from `auth_headers`.

    Raises:
        InputError: nothing answers there, or it does not take these headers.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self.address = address
        mode = _authentication_mode(address)
        if mode == "token" and not headers:
            raise InputError(f"{address}: this cluster asks for a token, and none was found here; {HOW}")
        self.open_to_all = mode == "disabled"
        set_environment()
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with self._calling(), _without(*FROM_ENVIRONMENT):
                self._client = JobSubmissionClient(address, headers=dict(headers))
        except RaycolError as error:
            raise InputError(str(error)) from None

    def jobs(self) -> list[SubmittedJob]:
        """All jobs that were submitted, oldest first."""
        with self._calling():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: (job.started or datetime.now(UTC), job.id))

    def job(self, submission_id: str) -> SubmittedJob:
        """One job. Raises `InputError` where there is none of that id."""
        with self._calling(submission_id):
            return _job(self._client.get_job_info(submission_id))

    def submit(
        self, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        """Send a job.

        Raises:
            DuplicateJobError: there is one of that id.
        """
        with self._calling():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env, metadata=metadata
            )

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; it has a few seconds before it is killed."""
        with self._calling(submission_id):
            self._client.stop_job(submission_id)

    def logs(self, submission_id: str) -> str:
        """All that a job has said so far."""
        with self._calling(submission_id):
            return str(self._client.get_job_logs(submission_id))

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        """What a job says, from its beginning, until it ends or the connection does: then `ConnectionError`."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(submission_id):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise ConnectionError(_last_line(error)) from None

    @contextmanager
    def _calling(self, submission_id: str = "") -> Iterator[None]:
        """Turn what Ray's client raises into an error of raycol's."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise InputError(f"{self.address}: the cluster refuses the token; {HOW}") from None
        except (requests.RequestException, ConnectionError) as error:
            raise RaycolError(f"{self.address}: the cluster cannot be reached ({_last_line(error)})") from None
        except RuntimeError as error:
            said = str(error)
            if "already exists" in said:
                raise DuplicateJobError(_last_line(error)) from None
            if submission_id and "status code 404" in said:
                raise InputError(
                    f"no job {submission_id!r} on {self.address}; `raycol jobs list` names those that there are"
                ) from None
            raise RaycolError(f"{self.address}: {_last_line(error)}") from None


def _authentication_mode(address: str) -> str | None:
    """What a cluster says of its authentication, to everybody; None of a Ray that does not say.

    Raises:
        InputError: nothing there, or no Ray.
    """
    expected = "expected a Ray cluster's dashboard; is the cluster up, and the address right (http://HEAD:8265)?"
    # This machine itself is reached even where the environment names a proxy for the others.
    direct = httpx2.URL(address).host in _THIS_MACHINE
    try:
        answer = httpx2.get(f"{address}/api/authentication_mode", timeout=_PATIENCE_S, trust_env=not direct)
        if answer.status_code == 404:  # an older Ray; what else it may be, the client finds
            return None
        mode = answer.raise_for_status().json()["authentication_mode"]
    except httpx2.HTTPStatusError as error:
        raise InputError(f"{address}: answers {error.response.status_code}; {expected}") from None
    except httpx2.TimeoutException:
        raise InputError(f"{address}: no answer within {_PATIENCE_S:g} seconds; {expected}") from None
    except httpx2.HTTPError as error:
        raise InputError(f"{address}: cannot be reached ({_last_line(error)}); {expected}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{address}: answers, but not as Ray does; {expected}") from None
    return str(mode).lower()


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide variables of the environment that Ray's client would take in place of the address it is given."""
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
        started=_moment(details.start_time),
        ended=_moment(details.end_time),
        message=details.message or "",
        driver_code=details.driver_exit_code,
        package=(details.runtime_env or {}).get("working_dir", ""),
        metadata=details.metadata or {},
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _last_line(error: BaseException) -> str:
    """What an error says; of a traceback that a server sent, what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(".") if lines else type(error).__name__
