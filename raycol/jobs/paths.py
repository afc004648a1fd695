"""Checks of a job's paths: whether they will resolve on the cluster's machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raycol.core.config import Config
from raycol.data.collections import is_benchmark
from raycol.data.files import HUB, IR_DATASETS
from raycol.errors import InputError
from raycol.jobs.package import Package
from raycol.jobs.verbs import VERBS, Verb, uris_of
from raycol.sweeps.config import SweepConfig
from raycol.training.config import TrainConfig


def check_paths(verb: Verb, config: Config, package: Package, source: str) -> None:
    """Refuse output paths that are deleted with the job's working directory, and input paths that are not uploaded.

    Absolute paths and URIs are assumed to be on storage that the cluster reaches: `raycol doctor` checks that. The
    trainings of a sweep are checked too, if its recipe is on this machine, and the mining of a training.

    Args:
        verb: of the job.
        config: its settings.
        package: the files that it uploads.
        source: name of the settings in messages.

    Raises:
        InputError: for the first such setting.
    """
    for name, uri in uris_of(config, verb.writes):
        if _is_relative(uri):
            raise InputError(
                f"{source}: {name} is {uri!r}, a relative path, and the job's working directory is deleted when it "
                "ends; expected an absolute path on storage that every node mounts, or a URI (s3://...)"
            )
    for name, uri in uris_of(config, (*verb.reads, *verb.collections)):
        is_name = name in verb.collections and is_benchmark(uri) and not (package.folder / uri).exists()
        if _is_relative(uri) and not is_name and not uri.startswith((HUB, IR_DATASETS)):
            _check_uploaded(f"{source}: {name} is {uri!r}", uri, package)
    for name, uri in uris_of(config, verb.models):
        if _is_relative(uri) and ((package.folder / uri).exists() or uri.startswith(".") or uri.count("/") > 1):
            _check_uploaded(f"{source}: {name} is {uri!r}", uri, package)
    if isinstance(config, SweepConfig):
        _check_sweep(config, package)
    if isinstance(config, TrainConfig) and config.remine_every:
        from raycol.training.remining import mining_of

        mining = mining_of(config, "/model", "/index", "/mined")
        check_paths(VERBS["mine"], mining, package, f"{source}: remine")


def _check_sweep(config: SweepConfig, package: Package) -> None:
    """Check the paths of a sweep's trainings. Raises `InputError` also if the recipe is malformed."""
    from raycol.sweeps.recipe import trainings_of

    recipe = package.folder / config.recipe
    if recipe.is_file():
        for _, training in trainings_of(recipe, config.seed, config.trials, config.out):
            check_paths(VERBS["train"], training, package, str(config.recipe))


def _is_relative(uri: str) -> bool:
    return "://" not in uri and not Path(uri).is_absolute()


def _check_uploaded(what: str, path: str, package: Package) -> None:
    matches = [match.relative_to(package.folder).as_posix() for match in _matching(package.folder, path)]
    if not matches:
        raise InputError(
            f"{what}: no such file or folder in the working directory {package.folder}; expected one there, an "
            "absolute path on storage that every node mounts, or a URI"
        )
    if not any(package.has(match) for match in matches):
        reason = package.left_out.get(matches[0], "excluded")
        raise InputError(
            f"{what}: {reason}, so it is not uploaded with the job; put it on storage that every node mounts and "
            "pass an absolute path, or a URI"
        )


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """The paths inside a folder that a relative path or glob names."""
    if ".." in Path(pattern).parts:
        return
    path = folder / pattern
    if path.exists():
        yield path
    elif any(char in pattern for char in "*?["):
        yield from sorted(folder.glob(pattern))
