"""API keys of an endpoint: a file of their hashes, made and changed by `raycol key`, read by the gateway.

    {"keys": [{"name": "ci", "scope": "read", "sha256": "9f86...", "created": "2026-01-31T12:00:00Z"}]}

A key itself is shown once, when it is made, and kept nowhere.
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


class _Kept(BaseModel):
    # What stands where a hash should may be a key: no message repeats it.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Key(_Kept):
    """What is kept of a key."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scope: Scope
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime


class Keys(_Kept):
    """The keys of an endpoint. Where there are none, nothing is allowed."""

    keys: Annotated[tuple[Key, ...], Field(max_length=MAX_KEYS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {what}")
        return self

    def scope_of(self, presented: str | None) -> Scope | None:
        """The scope of the key that a request presents, or None where it is not one of these."""
        if not presented:
            return None
        digest = _digest(presented)
        scope: Scope | None = None
        # Every key is compared, in constant time, so that an answer's time says nothing of which matched, or how far.
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                scope = key.scope
        return scope

    def allows(self, presented: str | None, scope: Scope) -> bool:
        """Whether a presented key gives a scope; admin includes read."""
        found = self.scope_of(presented)
        return found == "admin" or found == scope


class WatchedKeys:
    """The keys of a file as they are now: `refresh`, called now and then, reads it again where it has changed.

    A file without keys is taken as it is, and allows nothing: the last key may have been revoked.

    Raises:
        InputError: the file is missing or not one of keys.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._read_as = _identity(self._path)
        self._problem = ""
        self.keys = _parse(self._path)

    def refresh(self) -> bool:
        """Look whether the file has changed; return whether there are new keys.

        The last keys stay while there is nothing that can be read, and the log says so once.
        """
        try:
            # Before reading, so that a change in between is seen the next time.
            identity = _identity(self._path)
            if identity == self._read_as:
                return False
            keys = _parse(self._path)
        except InputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("the keys from before stay in use: %s", error)
            return False
        changed = keys != self.keys
        self.keys, self._read_as, self._problem = keys, identity, ""
        return changed


def new_key(path: str | Path, name: str, scope: str = "read") -> str:
    """Make a key, add its hash to a file, and return it. Makes the file where there is none.

    Raises:
        InputError: the name is taken or cannot be one, there is no such scope, or the file is not one of keys.
    """
    if scope not in get_args(Scope):
        raise InputError(f"scope {scope!r}; expected one of {', '.join(get_args(Scope))}")
    secret = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).rstrip(b"=").decode()
    try:
        now = datetime.now(UTC).replace(microsecond=0)
        key = Key.model_validate({"name": name, "scope": scope, "sha256": _digest(secret), "created": now})
    except ValidationError:
        raise InputError(
            f"name {name!r}; expected up to 64 letters, digits and . _ @ -, the first a letter or digit"
        ) from None
    with _changing(path) as file:
        known = _parse(file).keys if file.exists() else ()
        if any(other.name == name for other in known):
            raise InputError(f"{path}: there is a key {name!r} already; revoke it first, or take another name")
        if len(known) == MAX_KEYS:
            raise InputError(f"{path}: holds {MAX_KEYS} keys, the most there may be; revoke some")
        _save(file, Keys(keys=(*known, key)))
    return secret


def revoke_key(path: str | Path, name: str) -> None:
    """Remove a key from a file. Raises `InputError` where it is not in it."""
    with _changing(path) as file:
        known = _parse(file).keys
        left = tuple(key for key in known if key.name != name)
        if len(left) == len(known):
            raise InputError(f"{path}: no key {name!r} in it; it has {_listed(known)}")
        _save(file, Keys(keys=left))


def read_keys(path: str | Path) -> Keys:
    """The keys of a file.

    Raises:
        InputError: it is missing, not one of keys, or has none.
    """
    keys = _parse(Path(path))
    if not keys.keys:
        raise InputError(f"{path}: no keys in it; make one with `raycol key add`")
    return keys


def _parse(path: Path) -> Keys:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `raycol key add` makes one") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path}: not a file of API keys: it has more than {MAX_FILE_BYTES} bytes")
    try:
        return Keys.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: not a file of API keys: {where and where + ': '}{reason}") from None


def _digest(key: str) -> str:
    # Neither salt nor a slow hash: those keep a thief of the file from guessing what people choose. A key is 256
    # random bits, which nobody guesses at any speed, and a slow hash would be paid for with every request.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that was there before; None where it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


@contextmanager
def _changing(path: str | Path) -> Iterator[Path]:
    """The file to read and replace while nobody else does: a key that was just revoked must not come back."""
    file = Path(path).resolve()  # where `path` is a link, it stays one
    if not file.parent.is_dir():
        raise InputError(f"{path}: no such folder, {file.parent}")
    with writing(path):
        # The folder is locked rather than the file, which is another one after each change.
        descriptor = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(descriptor)


def _save(file: Path, keys: Keys) -> None:
    # Made with mode 0600, and flushed before it gets the name.
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


def _listed(keys: tuple[Key, ...]) -> str:
    return ", ".join(key.name for key in keys[:20]) or "none"
