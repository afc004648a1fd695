"""`overwrite`: which results are replaced, and how a configuration writes beside them first."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from raycol.core.config import Config
from raycol.core.uris import is_uri
from raycol.errors import writing
from raycol.storage.replacing import replacing, unrecorded_files
from raycol.training.config import MODEL_FILES
from raycol.verbs.arguments import settings_of

_INDEX_ENTRIES = {"manifests", "codebooks", "partitions", "deletes", "build-report.json", "served.json"}

C = TypeVar("C", bound=Config)


@contextmanager
def replaced(
    config_class: type[C],
    verb: str,
    values: Mapping[str, Any],
    kind: str,
    foreign_files: Callable[[Path], Collection[str] | None],
) -> Iterator[tuple[C, str]]:
    """Yield a verb's configuration and its final `out`; with `overwrite`, the configuration writes elsewhere first."""
    config = settings_of(config_class, verb, values)
    final: str = config.out  # type: ignore[attr-defined]
    with replacing(final, kind, foreign_files) if values["overwrite"] else nullcontext(final) as out:
        yield config if out == final else settings_of(config_class, verb, {**values, "out": out}), final


def beside_index(folder: Path) -> set[str] | None:
    """Names in a folder that are no part of its index; None if it has no version of an index."""
    return set(os.listdir(folder)) - _INDEX_ENTRIES if any((folder / "manifests").glob("*.json")) else None


def beside_model(folder: Path) -> set[str] | None:
    """Files in a folder that are no part of the model that `train` wrote to it; None if it wrote none."""
    return unrecorded_files(folder, MODEL_FILES)


def beside_report(report: str) -> Callable[[Path], set[str] | None]:
    """Return a function that does the same for a result of mining or scoring with this report."""

    def beside(folder: Path) -> set[str] | None:
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        return {name for name in names - {report} if not name.endswith(".parquet")} if report in names else None

    return beside


def folder_of(location: str) -> Path | None:
    """The folder of a local result, which a cluster's workers share; None for one in an object store."""
    if is_uri(location):
        return None
    return Path(location).absolute().parent


def rename_within(file: Path, before: str, after: str) -> None:
    """Replace a location in a text file."""
    with writing(file):
        file.write_text(file.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
