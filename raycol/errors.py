"""Every error that raycol raises on purpose.

A message names the thing, what was found, what was expected, and what to do. The command line prints
it on one line and exits with the class's `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RaycolError(Exception):
    """Something raycol could not do. Exit code 1."""

    exit_code = 1


class InputError(RaycolError):
    """The caller's input or usage is wrong: a file, a record, a setting, a path. Exit code 2."""

    exit_code = 2


class IndexCorruptError(RaycolError):
    """An index holds bytes that its manifest does not promise. Exit code 1."""


class ConflictError(RaycolError):
    """Another writer changed the index first. Exit code 1: open the index again and repeat."""


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn what the system says of a failed write (disk full, no permission) into a `RaycolError`."""
    try:
        yield
    except OSError as error:
        raise RaycolError(f"{place}: cannot be written ({error.strerror or error})") from error


def reason_of(error: BaseException, at_most: int = 300) -> str:
    """What an error of another library says, on one line and cut; its type if it says nothing."""
    return " ".join(str(error).split())[:at_most] or type(error).__name__
