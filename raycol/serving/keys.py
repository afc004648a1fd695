"""API keys of an endpoint: a file of their hashes, written by `raycol key`, read by the gateway.

    {"keys": [{"name": "ci", "scope": "read", "sha256": "9f86...", "created": "2026-01-31T12:00:00Z"}]}

The key itself is printed once, at creation, and stored nowhere.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycol.errors import InputError, writing
from raycol.storage.checked_files import fsync_folder

Scope = Literal["read", "admin"]

MAX_KEYS = 1000
MAX_FILE_BYTES = 1 << 20

_PREFIX = "raycol_"
_KEY_BYTES = 32

log = logging.getLogger(__name__)


class _Stored(BaseModel):
    # A wrong value of `sha256` may be a key: error messages must not contain it.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Key(_Stored):
    """A key as stored: its name, scope, hash and creation time."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scope: Scope
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime


class Keys(_Stored):
    """The keys of an endpoint. An empty set allows nothing."""

    keys: Annotated[tuple[Key, ...], Field(max_length=MAX_KEYS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return self

    def scope_of(self, secret: str | None) -> Scope | None:
        """The scope of a request's key, or None if it is missing or unknown."""
        if not secret:
            return None
        digest = _digest(secret)
        scope: Scope | None = None
        # Compare with every key, in constant time: the latency must not reveal which key matched, or how far.
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                scope = key.scope
        return scope

    def allows(self, secret: str | None, scope: Scope) -> bool:
        """Whether a request's key has a scope; admin includes read."""
        granted = self.scope_of(secret)
        return granted == "admin" or granted == scope


class WatchedKeys:
    """The keys of a file, reloaded by `refresh` if the file has changed.

    An empty file is valid and allows nothing: the last key may have been revoked.

    Raises:
        InputError: the file is missing or not a file of API keys.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file_id = _file_id(self._path)
        self._last_error = ""
        self.keys = _parse(self._path)

    def refresh(self) -> bool:
        """Reload the file if it has changed; return whether the keys did.

        If the file cannot be read, keep the previous keys and log a warning once.
        """
        try:
            # Before reading, so that the next call sees a concurrent change.
            file_id = _file_id(self._path)
            if file_id == self._file_id:
                return False
            keys = _parse(self._path)
        except InputError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                log.warning("keeping the previous keys: %s", error)
            return False
        changed = keys != self.keys
        self.keys, self._file_id, self._last_error = keys, file_id, ""
        return changed


def new_key(path: str | Path, name: str, scope: str = "read") -> str:
    """Create a key, add its hash to a file, and return it. Creates the file if it does not exist.

    Raises:
        InputError: the name is taken or invalid, the scope is unknown, or the file is not a file of API keys.
    """
    if scope not in get_args(Scope):
        raise InputError(f"unknown scope {scope!r}; expected one of {', '.join(get_args(Scope))}")
    secret = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).rstrip(b"=").decode()
    try:
        now = datetime.now(UTC).replace(microsecond=0)
        key = Key.model_validate({"name": name, "scope": scope, "sha256": _digest(secret), "created": now})
    except ValidationError:
        raise InputError(
            f"key name {name!r}: expected up to 64 letters, digits and . _ @ -, starting with a letter or digit"
        ) from None
    with _locked(path) as file:
        existing = _parse(file).keys if file.exists() else ()
        if any(other.name == name for other in existing):
            raise InputError(f"{path}: key {name!r} already exists; revoke it first, or use another name")
        if len(existing) == MAX_KEYS:
            raise InputError(f"{path}: the file has {MAX_KEYS} keys, the maximum; revoke some")
        _save(file, Keys(keys=(*existing, key)))
    return secret


def revoke_key(path: str | Path, name: str) -> None:
    """Remove a key from a file. Raises `InputError` if the file does not contain it."""
    with _locked(path) as file:
        existing = _parse(file).keys
        remaining = tuple(key for key in existing if key.name != name)
        if len(remaining) == len(existing):
            raise InputError(f"{path}: no key {name!r}; the file has {_names(existing)}")
        _save(file, Keys(keys=remaining))


def read_keys(path: str | Path) -> Keys:
    """The keys of a file.

    Raises:
        InputError: the file is missing, not a file of API keys, or has no keys.
    """
    keys = _parse(Path(path))
    if not keys.keys:
        raise InputError(f"{path}: the file has no keys; create one with `raycol key add`")
    return keys


def _parse(path: Path) -> Keys:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; create it with `raycol key add`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path}: not a file of API keys: it is larger than {MAX_FILE_BYTES} bytes")
    try:
        return Keys.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: not a file of API keys: {where and where + ': '}{reason}") from None


def _digest(key: str) -> str:
    # No salt and no slow hash: they protect guessable passwords. A key is 256 random bits, and a slow hash would
    # delay every request.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _file_id(path: Path) -> tuple[int, int, int] | None:
    """Modification time, inode and size, which change when the file is replaced; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


@contextmanager
def _locked(path: str | Path) -> Iterator[Path]:
    """Lock the file for a read-modify-write: a concurrent change must not restore a revoked key."""
    file = Path(path).resolve()  # replace the target of a symbolic link, not the link
    if not file.parent.is_dir():
        raise InputError(f"{path}: no such folder: {file.parent}")
    with writing(path):
        # Lock the folder: each change replaces the file.
        descriptor = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(descriptor)


def _save(file: Path, keys: Keys) -> None:
    # mkstemp creates the file with mode 0600; flush it before the rename.
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(keys.model_dump_json(indent=2) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, file)
    except BaseException:
        os.unlink(unfinished)
        raise
    fsync_folder(file.parent)


def _names(keys: tuple[Key, ...]) -> str:
    return ", ".join(key.name for key in keys[:20]) or "none"
