"""Writing objects: whole or not at all, and on the condition that there is none of the name.

By obstore. pyarrow.fs, which reads, has no conditional request, and makes an object of what it was given so far where
writing fails in the midst of it.
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

_PART = 8 << 20
# S3 takes 10,000 parts an object.
_MOST_PARTS = 9_000
_RETRIES, _RETRY_S = 8, 30.0


class ObjectWriter:
    """Writes under a prefix of a bucket.

    Args:
        opened: the prefix.
        uri: how messages name it.
    """

    def __init__(self, opened: UriFileSystem, uri: str) -> None:
        self._opened = opened
        self._uri = uri.rstrip("/")
        self._prefix = opened.path.partition("/")[2]
        self._checked: set[str] = set()

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, of bytes or a local file, in place of what stood there.

        Raises:
            RaycolError: it cannot be written. What stood there before is still there.
        """
        import obstore

        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with self._writing(name):
            obstore.put(
                self._client, self._key(name), content, chunk_size=max(_PART, size // _MOST_PARTS), max_concurrency=4
            )

    def create(self, name: str, content: bytes) -> bool:
        """Write an object on the condition that there is none of that name; return whether there was none.

        Raises:
            RaycolError: it cannot be written, or nothing is known of whether it was.
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
        """Delete objects. Raises `FileNotFoundError` where one is gone already, if the store says so."""
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
        """Raise where nothing can be written; or where, to commit versions, conditions are not kept. Once each.

        A store that takes a condition and ignores it would let two writers make one version, the later over the
        earlier: whatever it says of itself, this is tried.

        Raises:
            InputError: raycol writes to no store of this kind.
            RaycolError: no bucket, no permission, no answer, or conditions are ignored.
        """
        what = "commits" if commits else "writes"
        if {what, "commits"} & self._checked:
            return
        probe = f"00000000-{UNFINISHED}-{uuid.uuid4().hex}"
        try:
            if commits:
                self.create(probe, b"1")
            else:
                self.put(probe, b"")
            if commits and self.create(probe, b"2"):
                raise RaycolError(
                    f"{self._uri}: writes an object over another though told not to (If-None-Match), so two writers "
                    "would lose each other's versions; expected a store that keeps this condition, or a local folder"
                )
        finally:
            with suppress(RaycolError):
                self.delete([probe])
        self._checked.add(what)

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
            f"{self._uri}: {kind} cannot create a file on condition that there is none; what is there can be read, "
            "not written. Write to a local folder, s3://, gs:// or abfs://"
        )

    @contextmanager
    def _writing(self, name: str, doing: str = "written") -> Iterator[None]:
        from obstore.exceptions import BaseError

        place = f"{self._uri}/{name}"
        try:
            yield
        except FileNotFoundError as error:
            if doing == "deleted":
                raise
            # Of a request to write only the bucket can be missing.
            raise RaycolError(
                f"{place}: cannot be {doing}: no such bucket ({first_line(error)}); make it, or mend the name"
            ) from None
        except (BaseError, OSError, ValueError) as error:
            raise RaycolError(failure_message(place, f"cannot be {doing}", error)) from None


def _refuse_profiles(uri: str) -> None:
    """Say at once that profiles are not used for writing, in place of a long search for a machine's role."""
    known = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
             "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
    if os.environ.get("AWS_PROFILE") and not any(os.environ.get(name) for name in known):
        raise InputError(
            f"{uri}: AWS_PROFILE is set, and profiles are used for reading only; put the credentials themselves into "
            'the environment: eval "$(aws configure export-credentials --format env)"'
        )
