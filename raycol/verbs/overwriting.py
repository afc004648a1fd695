"""`overwrite`: which results are replaced, and how a configuration writes beside them first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from raycol.core.config import Config
from raycol.core.uris import is_uri
from raycol.errors import writing
from raycol.storage.replacing import replacing
from raycol.verbs.arguments import settings_of

_INDEX_ENTRIES = {"manifests", "codebooks", "partitions", "deletes", "build-report.json", "served.json"}

C = TypeVar("C", bound=Config)


@contextmanager
def replaced(
    config_class: type[C], verb: str, values: Mapping[str, Any], kind: str, is_finished: Callable[[Path], bool]
) -> Iterator[tuple[C, str]]:
    """Yield a verb's configuration and its final `out`; with `overwrite`, the configuration writes elsewhere first."""
    config = settings_of(config_class, verb, values)
    final: str = config.out  # type: ignore[attr-defined]
    with replacing(final, kind, is_finished) if final and values["overwrite"] else nullcontext(final) as out:
        yield config if out == final else settings_of(config_class, verb, {**values, "out": out}), final


def is_index(folder: Path) -> bool:
    """Whether a folder is a finished index: a version, and nothing but an index's files."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return any((folder / "manifests").glob("*.json")) and names <= _INDEX_ENTRIES


def is_model(folder: Path) -> bool:
    """Whether a folder is a model that `train` wrote."""
    settings = folder / "training" / "config.yaml"
    return (
        (folder / "modules.json").is_file() and settings.is_file() and settings.read_bytes().startswith(b"# raycol ")
    )


def has_report(report: str) -> Callable[[Path], bool]:
    """Return a function that tells whether a folder is a result of mining or scoring with this report."""

    def is_result(folder: Path) -> bool:
        """Whether a folder has a report and its Parquet files, and nothing else."""
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        return report in names and all(name.endswith(".parquet") for name in names - {report})

    return is_result


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is a finished evaluation, and nothing else."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return "evaluation.json" in names and names <= {"evaluation.json", "queries.parquet", "runs", "pictures"}


def folder_of(location: str) -> Path | None:
    """The folder of a local result, which a cluster's workers share; None for one in an object store."""
    if is_uri(location):
        return None
    return Path(location).absolute().parent


def rename_within(file: Path, before: str, after: str) -> None:
    """Replace a location in a text file."""
    with writing(file):
        file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
