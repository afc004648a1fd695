"""Replace a finished result by a new one, once the new one is complete; record which files a result has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from raycol.core.uris import is_uri
from raycol.errors import InputError, writing

# Names of a folder's foreign files in a message.
_SHOWN = 5


@contextmanager
def replacing(out: str, kind: str, foreign_files: Callable[[Path], Collection[str] | None]) -> Iterator[str]:
    """Yield the location for a new result, and put it in place of the one in `out` when the block succeeds.

    If `out` does not exist, that is `out` itself. Otherwise it is in a hidden folder beside `out`: the old result
    stays readable until the new one is complete, and whatever happens, one of them is in `out` or in `.NAME-old`.
    After a failure the hidden folder stays, so that the same command resumes.

    Args:
        out: local folder of the result.
        kind: names the result in messages, such as "an index".
        foreign_files: returns the names of files in a folder that are no part of its finished result of this kind;
            None if it has no such result.

    Raises:
        InputError: `out` is a URI, or a folder without such a result, or with other files.
    """
    if is_uri(out):
        raise InputError(
            f"overwrite: {out} is in an object store; expected a local folder: delete the result there first"
        )
    final = Path(os.path.realpath(out))
    if not final.exists():
        yield out
        return
    foreign = foreign_files(final)
    if foreign is None:
        raise InputError(
            f"{out}: exists, and is not {kind} that raycol has finished, so it is not overwritten; pass another "
            "folder, or remove it"
        )
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise InputError(
            f"{out}: has files that raycol did not write, {', '.join(sorted(foreign)[:_SHOWN])}{more}, so it is not "
            "overwritten; move them elsewhere, or pass another folder"
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


def record_files(folder: Path, record: str) -> None:
    """List the files of a folder in one of them, `record`: a path a line, relative to the folder."""
    (folder / record).touch()
    (folder / record).write_text("".join(f"{path}\n" for path in sorted(_files(folder))), encoding="utf-8")


def unrecorded_files(folder: Path, record: str) -> set[str] | None:
    """Return the paths of the files that `record_files` did not list; None if the folder has no such record."""
    if not (folder / record).is_file():
        return None
    return _files(folder) - set((folder / record).read_text(encoding="utf-8").splitlines())


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
