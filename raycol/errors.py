"""The exceptions that raycol raises.

A message says what is wrong, what was expected and what to do. The command line prints it on one line and exits with
the class's `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RaycolError(Exception):
    """Base class; also raised for failures of the environment, such as a full disk. Exit code 1."""

    exit_code = 1


class InputError(RaycolError):
    """Invalid input or usage: a file, a record, a setting, a path. Exit code 2."""

    exit_code = 2


class ArgumentError(InputError, TypeError):
    """A function has no argument of this name. Exit code 2."""


class IndexCorruptError(RaycolError):
    """An index's files do not match its manifest. Exit code 1."""


class ConflictError(RaycolError):
    """Another writer committed first; reopen the index and repeat the change. Exit code 1."""


@contextmanager
def writing(target: object) -> Iterator[None]:
    """Convert an `OSError` of a write (disk full, no permission) into a `RaycolError` that names the target."""
    try:
        yield
    except OSError as error:
        raise RaycolError(f"{target}: cannot be written ({error.strerror or error})") from error


def reason_of(error: BaseException, max_chars: int = 300) -> str:
    """Return the message of another library's error on one line, truncated; its type name if the message is empty."""
    return " ".join(str(error).split())[:max_chars] or type(error).__name__
