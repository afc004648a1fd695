"""Write objects atomically, and conditionally on their not existing.

Uses obstore. pyarrow.fs, which reads, has no conditional requests, and completes an upload with partial content when
writing fails midway.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from raycol.core.uris import UriFileSystem, failure_message, first_line
from raycol.errors import InputError, RaycolError
from raycol.storage.store import UNFINISHED

_PART_BYTES = 8 << 20
# S3 takes at most 10,000 parts per object.
_MAX_PARTS = 9_000
_RETRIES, _RETRY_S = 8, 30.0


class ObjectWriter:
    """Writes objects under a prefix of a bucket.

    Args:
        opened: file system and path of the prefix.
        uri: of the prefix, as messages show it.
    """

    def __init__(self, opened: UriFileSystem, uri: str) -> None:
        self._opened = opened
        self._uri = uri.rstrip("/")
        self._prefix = opened.path.partition("/")[2]
        self._checked: set[str] = set()

    def put(self, name: str, content: bytes | Path) -> None:
        """Write or replace an object with bytes or a local file.

        Raises:
            RaycolError: it cannot be written. An existing object is unchanged.
        """
        import obstore

        size = content.stat().st_size if isinstance(content, Path) else len(content)
        part_bytes = max(_PART_BYTES, size // _MAX_PARTS)
        with self._writing(name):
            obstore.put(self._client, self._key(name), content, chunk_size=part_bytes, max_concurrency=4)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object only if it does not exist; return whether it was written.

        Raises:
            RaycolError: it cannot be written, or the outcome is unknown.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._writing(name):
            try:
                obstore.put(self._client, self._key(name), content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects. Raises `FileNotFoundError` if the store reports that one of several is missing."""
        import obstore

        if not names:
            return
        with self._writing(names[0], "deleted"):
            try:
                obstore.delete(self._client, [self._key(name) for name in names])
            except FileNotFoundError:
                if len(names) == 1:
                    return
                raise

    def check(self, *, commits: bool = False) -> None:
        """Check by a test object, once, that the prefix is writable and, for commits, that conditions are honoured.

        A store that accepts a condition and ignores it would let two writers create the same version, the later one
        overwriting the earlier. So the condition is tested, whatever the store documents.

        Raises:
            InputError: raycol cannot write to this kind of store.
            RaycolError: no bucket, no permission, no response, or conditions are ignored.
        """
        level = "commits" if commits else "writes"
        if {level, "commits"} & self._checked:
            return
        probe = f"00000000-{UNFINISHED}-{uuid.uuid4().hex}"
        try:
            if commits:
                self.create(probe, b"1")
            else:
                self.put(probe, b"")
            if commits and self.create(probe, b"2"):
                raise RaycolError(
                    f"{self._uri}: the store overwrites an existing object despite If-None-Match, so two writers "
                    "would lose each other's versions; expected a store that honours this condition, or a local folder"
                )
        finally:
            with suppress(RaycolError):
                self.delete([probe])
        self._checked.add(level)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @cached_property
    def _client(self) -> Any:
        from obstore.store import AzureStore, GCSStore, S3Store

        opened = self._opened
        bucket, kind = opened.path.partition("/")[0], opened.system.type_name
        common: dict[str, Any] = {
            "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)}
        }
        if opened.endpoint.startswith("http://"):
            common["client_options"] = {"allow_http": True}
        if kind == "s3":
            _refuse_profiles(self._uri)
            if opened.endpoint:
                common |= {"endpoint": opened.endpoint, "virtual_hosted_style_request": False}
            return S3Store(bucket, region=opened.system.region, conditional_put="etag", **common)
        if kind == "gcs":
            if opened.endpoint:
                common["base_url"] = opened.endpoint
            return GCSStore(bucket, **common)
        if kind == "abfs":
            return AzureStore(bucket, **common)
        raise InputError(
            f"{self._uri}: raycol reads from {kind} but cannot write there, because it has no conditional writes; "
            "expected a local folder, s3://, gs:// or abfs://"
        )

    @contextmanager
    def _writing(self, name: str, action: str = "written") -> Iterator[None]:
        """Convert errors of obstore into `RaycolError`, except for a missing object to delete."""
        from obstore.exceptions import BaseError

        location = f"{self._uri}/{name}"
        try:
            yield
        except FileNotFoundError as error:
            if action == "deleted":
                raise
            # A write can only miss its bucket.
            raise RaycolError(
                f"{location}: cannot be {action}: no such bucket ({first_line(error)}); create it, or fix the name"
            ) from None
        except (BaseError, OSError, ValueError) as error:
            raise RaycolError(failure_message(location, f"cannot be {action}", error)) from None


def _refuse_profiles(uri: str) -> None:
    """Refuse AWS_PROFILE, which obstore ignores, instead of waiting for a machine role that is not there."""
    known = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
             "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
    if os.environ.get("AWS_PROFILE") and not any(os.environ.get(name) for name in known):
        raise InputError(
            f"{uri}: AWS_PROFILE is set, but profiles work for reading only; export the credentials to the "
            'environment: eval "$(aws configure export-credentials --format env)"'
        )
