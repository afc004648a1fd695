"""Where a job's settings lead, from a machine that is not this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raycol.core.config import Config
from raycol.data.files import HUB
from raycol.errors import InputError
from raycol.jobs.package import Package
from raycol.jobs.verbs import Verb, places


def check_paths(verb: Verb, config: Config, package: Package, source: str) -> None:
    """Refuse settings that a job cannot follow: results in a folder that goes with the job, data that is not sent.

    Absolute paths and URIs are taken to be on storage that the cluster reaches: `raycol doctor` checks that.

    Args:
        verb: what the job does.
        config: its settings.
        package: what it is sent.
        source: how messages name the settings.

    Raises:
        InputError: for the first such setting.
    """
    for name, place in places(config, verb.writes):
        if _is_relative(place):
            raise InputError(
                f"{source}: {name} is {place!r}, which would be in the job's copy of the working directory and go "
                f"with it; expected an absolute path on storage that every node mounts, or a URI (s3://...)"
            )
    for name, place in places(config, verb.reads):
        if _is_relative(place) and not place.startswith(HUB):
            _check_sent(f"{source}: {name} is {place!r}", place, package)
    for name, place in places(config, verb.models):
        if _is_relative(place) and (
            (package.folder / place).exists() or place.startswith(".") or place.count("/") > 1
        ):
            _check_sent(f"{source}: {name} is {place!r}", place, package)


def _is_relative(place: str) -> bool:
    return "://" not in place and not Path(place).is_absolute()


def _check_sent(what: str, place: str, package: Package) -> None:
    found = [path.relative_to(package.folder).as_posix() for path in _matching(package.folder, place)]
    if not found:
        raise InputError(
            f"{what}: no such file or folder in the working directory {package.folder}; expected one there, an "
            "absolute path on storage that every node mounts, or a URI"
        )
    if not any(package.has(path) for path in found):
        why = next((kind for left, kind in package.left_out.items() if found[0] == left), "left out of what is sent")
        raise InputError(
            f"{what}: {why}, so the job would not have it; put it on storage that every node mounts, and give an "
            "absolute path, or a URI"
        )


def _matching(folder: Path, place: str) -> Iterator[Path]:
    """What a relative path or glob names inside a folder."""
    if ".." in Path(place).parts:
        return
    path = folder / place
    if path.exists():
        yield path
    elif any(sign in place for sign in "*?["):
        yield from sorted(folder.glob(place))
