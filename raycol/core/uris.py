"""Locations: local paths and URIs, what may be in them, and what opens them.

Credentials come from the environment. A URI that holds any is refused before it can get into a configuration, a log, a
manifest or a report, and no message repeats them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from raycol.errors import InputError

if TYPE_CHECKING:
    import pyarrow.fs as pafs

ENVIRONMENT = "put them into the environment"

# What pyarrow.fs takes of a URI's query and is no secret. Anything else is refused by its name, unseen.
_OPTIONS = {
    "s3": {
        "region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion", "tls_ca_file_path",
        "tls_ca_dir_path", "tls_verify_certificates", "smart_defaults", "check_directory_existence_before_creation",
        "force_virtual_addressing", "allow_delayed_open",
    },
    "gs": {"scheme", "endpoint_override", "retry_limit_seconds", "project_id"},
    "abfs": {"blob_storage_authority", "dfs_storage_authority", "enable_tls", "credential_kind", "tenant_id",
             "client_id", "background_writes"},
    "hdfs": {"replication", "buffer_size", "default_block_size"},
}  # fmt: skip
_SAME = {"gcs": "gs", "abfss": "abfs", "viewfs": "hdfs"}


def is_uri(location: object) -> bool:
    """Whether a location is a URI; anything else is a local path, or the name of something."""
    return "://" in str(location)


def check_location(location: str) -> str:
    """Return a location, or raise `InputError` where it is a URI that holds credentials or settings unknown here.

    The error names the scheme and host, or the parameter; never a value.
    """
    if not is_uri(location):
        return location
    scheme = location.partition("://")[0].lower()
    try:
        parts = urlsplit(location)
        _ = parts.port  # checked when it is asked for
    except ValueError:
        shown = f"{scheme}://..." if "@" in location or "=" in location else location
        raise InputError(f"{shown}: not a usable URI; credentials, if it has any, belong in the environment") from None
    if "@" in parts.netloc:
        raise InputError(f"{scheme}://{parts.hostname}: credentials in a URI; {ENVIRONMENT}")
    base, options = _split(location)
    known = _OPTIONS.get(_SAME.get(scheme, scheme), set())
    for name, _ in parse_qsl(options, keep_blank_values=True):
        if name.lower() not in known:
            raise InputError(
                f"{base}: has the parameter {name!r:.60}, which is unknown here; credentials are no part of a URI: "
                f"{ENVIRONMENT}"
            )
    return location


def without_options(location: str) -> str:
    """A location as messages name it: without the settings behind its `?`."""
    return _split(location)[0] if is_uri(location) else location


def join_uri(location: str, name: str) -> str:
    """A file or folder under a folder; the settings of a URI stay its own."""
    base, options = _split(location) if is_uri(location) else (location, "")
    return f"{base.rstrip('/')}/{name}{options and '?' + options}"


def base_name(location: str) -> str:
    """The name of the file or folder itself."""
    return PurePosixPath(without_options(location)).name


def parent_uri(location: str) -> str:
    """The folder that a location lies in."""
    base, options = _split(location) if is_uri(location) else (location, "")
    return f"{base.rstrip('/').rpartition('/')[0]}{options and '?' + options}"


@dataclass(frozen=True)
class UriFileSystem:
    """A URI's file system.

    Args:
        system: of pyarrow.
        path: in it, without a `/` at its end.
        options: the URI's settings.
        uri_of: turns another path in the same file system into a URI (or a path, where it is local).
    """

    system: pafs.FileSystem
    path: str
    options: dict[str, str] = field(repr=False)
    uri_of: Callable[[str], str] = field(repr=False)

    @property
    def endpoint(self) -> str:
        """The address of an S3-compatible server, scheme included; empty for a provider's own."""
        if named := self.options.get("endpoint_override"):
            return f"{self.options.get('scheme', 'https')}://{named}"
        if self.system.type_name != "s3":
            return ""
        found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        return found if not found or is_uri(found) else f"{self.options.get('scheme', 'https')}://{found}"


def open_uri(uri: str) -> UriFileSystem:
    """The file system of a URI, by pyarrow.fs.

    Raises:
        InputError: there is none, or the URI holds credentials.
    """
    import pyarrow as pa
    import pyarrow.fs as pafs

    check_location(uri)
    base, options = _split(uri)
    query = f"?{options}" if options else ""
    try:
        system, path = pafs.FileSystem.from_uri(quote(base, safe="/:@%!$&'()*+,;=") + query)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{base}: cannot be opened ({first_line(error)})") from None
    if isinstance(system, pafs.LocalFileSystem):
        return UriFileSystem(system, path, {}, str)
    if not path.strip("/"):
        raise InputError(f"{base}: cannot be opened (it names no bucket)")
    scheme, _, rest = base.partition("://")
    root = f"{scheme}://{rest.partition('/')[0] if path.startswith('/') else ''}"
    return UriFileSystem(
        system, path.rstrip("/"), dict(parse_qsl(options)), lambda path: f"{root}{quote(path)}{query}"
    )  # fmt: skip


def remedy(error: BaseException) -> str:
    """What to do about what a file system says of a failed request: a few words, or none."""
    text = str(error).upper()
    if "NO_SUCH_BUCKET" in text or "NOSUCHBUCKET" in text:
        return "no such bucket: make it, or mend the name"
    if any(word in text for word in ("ACCESS_DENIED", "ACCESSDENIED", "FORBIDDEN", "PERMISSION", "PRIVILEGES")):
        return "no permission: look at the credentials in the environment and at what they may do"
    if any(word in text for word in ("INVALID_ACCESS_KEY", "SIGNATURE", "CREDENTIALS", "UNAUTHENTICATED", "TOKEN")):
        return "no usable credentials in the environment (docs/storage.md says under which names)"
    unreachable = ("NETWORK_CONNECTION", "CURLCODE", "TIMEOUT", "SENDING REQUEST", "CONNECT", "SLOW_DOWN", "SLOWDOWN")
    if any(word in text for word in (*unreachable, "STATUS 50", "INTERNAL_FAILURE", "SERVER ERROR", "UNAVAILABLE")):
        return "the endpoint does not answer as it should: try again, or look at its address and the network"
    return ""


def failure_message(location: object, what: str, error: BaseException) -> str:
    """A message for a failed request: where, what failed, what was found, what to do."""
    advice = remedy(error) if is_uri(location) else ""
    return f"{without_options(str(location)):.500}: {what} ({first_line(error)}){'; ' + advice if advice else ''}"


def missing_bucket(opened: UriFileSystem) -> str:
    """The name of a URI's bucket, where there is none of that name; else nothing."""
    import pyarrow.fs as pafs

    bucket = opened.path.partition("/")[0]
    if opened.system.type_name not in ("s3", "gcs", "abfs"):
        return ""
    try:
        there = opened.system.get_file_info(bucket).type != pafs.FileType.NotFound
    except OSError:  # whoever may not look at the bucket may still read what is in it
        there = True
    return "" if there else bucket


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def _split(uri: str) -> tuple[str, str]:
    """A URI and its settings. A glob's `?` is none of their beginning, except where settings follow."""
    base, mark, rest = uri.rpartition("?")
    return (base, rest) if mark and "=" in rest else (uri, "")
