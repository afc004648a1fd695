"""Replace a finished result by a new one, once the new one is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raycol.core.uris import is_uri
from raycol.errors import InputError, writing


@contextmanager
def replacing(out: str, kind: str, is_finished: Callable[[Path], bool]) -> Iterator[str]:
    """Yield the location for a new result, and put it in place of the one in `out` when the block succeeds.

    If `out` does not exist, that is `out` itself. Otherwise it is in a hidden folder beside `out`: the old result
    stays readable until the new one is complete, and whatever happens, one of them is in `out` or in `.NAME-old`.
    After a failure the hidden folder stays, so that the same command resumes.

    Args:
        out: local folder of the result.
        kind: names the result in messages, such as "an index".
        is_finished: whether a folder has a finished result of this kind, and nothing else.

    Raises:
        InputError: `out` is a URI, or a folder without such a result.
    """
    if is_uri(out):
        raise InputError(
            f"overwrite: {out} is in an object store; expected a local folder: delete the result there first"
        )
    final = Path(os.path.realpath(out))
    if not final.exists():
        yield out
        return
    if not is_finished(final):
        raise InputError(
            f"{out}: exists, and is not just {kind} that raycol has finished, so it is not overwritten; pass another "
            "folder, or remove it"
        )
    # The new result has the same name: a model's card shows it.
    beside = final.with_name(f".{final.name}-new")
    old = final.with_name(f".{final.name}-old")
    with writing(beside):
        beside.mkdir(exist_ok=True)
    yield str(beside / final.name)
    with writing(final):
        if old.exists():
            shutil.rmtree(old)
        final.rename(old)
        (beside / final.name).rename(final)
        shutil.rmtree(old)
        shutil.rmtree(beside)
