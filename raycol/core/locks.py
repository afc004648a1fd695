"""Lock files in local folders. A command holds one while it runs; the system releases it when the process ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycol.errors import InputError

# Errors of file systems without locks; locking then has no effect.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def file_lock(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock file while the block runs. The file is created, with its folder, and may be deleted by the holder.

    Args:
        path: of the lock file.
        doing: what the command does, for the message of another one that finds the lock held.

    Raises:
        InputError: another process holds the lock.
        OSError: the file cannot be created.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the last holder has just deleted the folder
            continue
        try:
            if not _lock(descriptor):
                raise InputError(f"{path.parent}: another command is {doing} there; wait until it ends, or stop it")
            if _is_at(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file: the last holder may have deleted it before it was locked."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True
