"""Locations, which are local paths or URIs: check them, join them, and open their file systems.

Credentials come from the environment. A URI with credentials is refused before it can reach a configuration, a log, a
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

# Options in a URI's query that pyarrow.fs takes and that hold no secrets. Any other is refused by name.
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
_SCHEME_ALIASES = {"gcs": "gs", "abfss": "abfs", "viewfs": "hdfs"}


def is_uri(location: object) -> bool:
    """Whether a location is a URI; otherwise it is a local path or a name."""
    return "://" in str(location)


def check_location(location: str) -> str:
    """Return a location. Raises `InputError` if it is a URI with credentials or unknown options.

    The error names the scheme and host, or the option, but never a value.
    """
    if not is_uri(location):
        return location
    scheme = location.partition("://")[0].lower()
    try:
        parts = urlsplit(location)
        _ = parts.port  # urlsplit validates the port on access
    except ValueError:
        safe = f"{scheme}://..." if "@" in location or "=" in location else location
        raise InputError(f"{safe}: not a valid URI; if it holds credentials, put them into the environment") from None
    if "@" in parts.netloc:
        raise InputError(f"{scheme}://{parts.hostname}: credentials in a URI; put them into the environment")
    base, options = _split(location)
    known = _OPTIONS.get(_SCHEME_ALIASES.get(scheme, scheme), set())
    for name, _ in parse_qsl(options, keep_blank_values=True):
        if name.lower() not in known:
            raise InputError(
                f"{base}: unknown option {name!r:.60}; if it holds credentials, put them into the environment"
            )
    return location


def without_options(location: str) -> str:
    """Return a location for messages: a URI without the options after its `?`."""
    return _split(location)[0] if is_uri(location) else location


def join_uri(location: str, name: str) -> str:
    """Return the location of a file or folder in a folder; the options of a URI are kept."""
    base, options = _split(location) if is_uri(location) else (location, "")
    return f"{base.rstrip('/')}/{name}{options and '?' + options}"


def base_name(location: str) -> str:
    """Return the last component of a location."""
    return PurePosixPath(without_options(location)).name


def parent_uri(location: str) -> str:
    """Return the parent folder of a location; the options of a URI are kept."""
    base, options = _split(location) if is_uri(location) else (location, "")
    return f"{base.rstrip('/').rpartition('/')[0]}{options and '?' + options}"


@dataclass(frozen=True)
class UriFileSystem:
    """The file system of a URI.

    Args:
        system: of pyarrow.fs.
        path: of the URI in it, without a trailing `/`.
        options: the URI's query.
        uri_of: converts a path in the file system to a URI, or to itself if the file system is local.
    """

    system: pafs.FileSystem
    path: str
    options: dict[str, str] = field(repr=False)
    uri_of: Callable[[str], str] = field(repr=False)

    @property
    def endpoint(self) -> str:
        """Address of an S3-compatible server with its scheme; empty for the provider's own."""
        if override := self.options.get("endpoint_override"):
            return f"{self.options.get('scheme', 'https')}://{override}"
        if self.system.type_name != "s3":
            return ""
        address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        return address if not address or is_uri(address) else f"{self.options.get('scheme', 'https')}://{address}"


def open_uri(uri: str) -> UriFileSystem:
    """Return the file system of a URI, opened with pyarrow.fs.

    Raises:
        InputError: it cannot be opened, or the URI holds credentials.
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
    """Return advice on an error of a file system, from its text; empty if there is none."""
    text = str(error).upper()
    if "NO_SUCH_BUCKET" in text or "NOSUCHBUCKET" in text:
        return "no such bucket: create it, or fix the name"
    if any(word in text for word in ("ACCESS_DENIED", "ACCESSDENIED", "FORBIDDEN", "PERMISSION", "PRIVILEGES")):
        return "no permission: check the credentials in the environment and their permissions"
    if any(word in text for word in ("INVALID_ACCESS_KEY", "SIGNATURE", "CREDENTIALS", "UNAUTHENTICATED", "TOKEN")):
        return "no usable credentials in the environment (docs/storage.md lists the variables)"
    unreachable = ("NETWORK_CONNECTION", "CURLCODE", "TIMEOUT", "SENDING REQUEST", "CONNECT", "SLOW_DOWN", "SLOWDOWN")
    if any(word in text for word in (*unreachable, "STATUS 50", "INTERNAL_FAILURE", "SERVER ERROR", "UNAVAILABLE")):
        return "the endpoint fails or does not respond: try again, or check its address and the network"
    return ""


def failure_message(location: object, what: str, error: BaseException) -> str:
    """Return an error message for a failed request: location, what failed, the reason, and advice if there is any."""
    advice = remedy(error) if is_uri(location) else ""
    return f"{without_options(str(location)):.500}: {what} ({first_line(error)}){'; ' + advice if advice else ''}"


def missing_bucket(opened: UriFileSystem) -> str:
    """Return the name of a URI's bucket if the bucket does not exist; otherwise an empty string."""
    import pyarrow.fs as pafs

    bucket = opened.path.partition("/")[0]
    if opened.system.type_name not in ("s3", "gcs", "abfs"):
        return ""
    try:
        exists = opened.system.get_file_info(bucket).type != pafs.FileType.NotFound
    except OSError:  # objects may be readable without permission to look up the bucket
        exists = True
    return "" if exists else bucket


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 500 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def _split(uri: str) -> tuple[str, str]:
    """Split a URI into its base and its options. A `?` without a `=` after it is part of a glob pattern."""
    base, separator, rest = uri.rpartition("?")
    return (base, rest) if separator and "=" in rest else (uri, "")
