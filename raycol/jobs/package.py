"""The files of a working directory that a job uploads, as Ray packs them.

Excluded are files that .gitignore or .rayignore match, version control, environments, caches, weights, and folders
whose contents show them to be an index or a checkpoint: a cluster reads those from shared storage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from raycol.errors import InputError

# Patterns in the syntax of .gitignore, matched anywhere in the working directory.
_EXCLUDED = (
    ".git", ".hg", ".svn", ".venv*", "venv", "node_modules", "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".DS_Store", "*.egg-info",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.ckpt", "*.pt", "*.pth", "*.onnx", "pytorch_model*.bin")
_LARGEST_SHOWN = 3
# Zip: the end-of-archive record; the local and central headers of an entry. Each header also holds the entry's name.
_ARCHIVE_BYTES = 22
_ENTRY_BYTES = 30 + 46


@dataclass(frozen=True)
class Package:
    """The files that a job uploads.

    Args:
        folder: the working directory.
        files: bytes of each file, by its path in the folder.
        excludes: patterns for Ray to exclude, beside its defaults.
        left_out: indexes and checkpoints that are excluded: the kind of each, by its path in the folder.
    """

    folder: Path
    files: dict[str, int]
    excludes: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of the uploaded archive: Ray does not compress it, so files plus zip headers."""
        return _ARCHIVE_BYTES + sum(self.files.values(), sum(_entry_bytes(name) for name in self.files))

    def has(self, path: str) -> bool:
        """Whether a file, or any file in a folder, is uploaded."""
        name = PurePosixPath(path).as_posix()
        return name == "." or name in self.files or any(file.startswith(f"{name}/") for file in self.files)

    def check_size(self, limit: int) -> None:
        """Raise `InputError` if the archive is larger than the cluster accepts."""
        if self.bytes <= limit:
            return
        parts: dict[str, int] = {}
        for file, size in self.files.items():
            top = file.partition("/")[0] + ("/" if "/" in file else "")
            parts[top] = parts.get(top, 0) + size
        largest = sorted(parts, key=lambda name: -parts[name])[:_LARGEST_SHOWN]
        shown = ", ".join(f"{name} ({mib(parts[name])})" for name in largest)
        raise InputError(
            f"{self.folder}: {mib(self.bytes)} in {len(self.files)} files; expected at most {mib(limit)}, Ray's "
            f"limit. The largest: {shown}. Exclude files that the job does not need (--exclude, a .rayignore), and "
            "put data on shared storage"
        )


def _entry_bytes(name: str) -> int:
    return _ENTRY_BYTES + 2 * len(name.encode(errors="surrogateescape"))


def mib(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**17 else f"{size / 2**10:.1f} KiB"


def size_limit() -> int:
    """Largest archive that a cluster accepts, in bytes: its dashboard's request limit and its GCS's storage limit."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE))


def pack(folder: Path, exclude: Sequence[str] = ()) -> Package:
    """List the files that a job in this working directory uploads.

    Args:
        folder: the working directory.
        exclude: further patterns to exclude, in the syntax of .gitignore.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root = folder.absolute()
    if not root.is_dir():
        raise InputError(f"{folder}: {'not a folder' if root.exists() else 'no such folder'}; expected the working "
                         "directory of the job")  # fmt: skip
    files: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_symlink() and path.is_dir() and path.parent.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path}: a link to a folder that contains it; remove it, or exclude it with --exclude")
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    try:
        left_out = dict(_indexes_and_checkpoints(root))
        excludes = [*_EXCLUDED, *_WEIGHTS, *(f"/{_escaped(name)}" for name in left_out), *exclude]
        patterns = [*get_runtime_env_default_excludes(), *excludes]
        _dir_travel(
            root, [_get_excludes(root, patterns)], add, include_gitignore=respects_gitignore(), logger=_silent_logger()
        )
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be read ({error.strerror}); exclude it with --exclude"
        ) from None
    except ValueError as error:
        raise InputError(f"--exclude: {error}; expected patterns as in .gitignore") from None
    return Package(root, files, excludes, left_out)


def respects_gitignore() -> bool:
    """Whether Ray excludes files that .gitignore matches."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _indexes_and_checkpoints(root: Path) -> Iterator[tuple[str, str]]:
    """Path and kind of each index and checkpoint below a folder, recognised by their files."""
    for parent, folders, files in os.walk(root):
        file_names = set(files)
        folder_names = set(folders)
        kind = None
        if "partitions" in folder_names and folder_names & {"manifests", "builds"}:
            kind = "an index"
        elif "modules.json" in file_names or (
            "config.json" in file_names and any(_is_weights(name) for name in file_names)
        ):
            kind = "a checkpoint"
        elif "checkpoints" in folder_names and Path(parent).name.endswith("-training"):
            kind = "training checkpoints"
        if kind and Path(parent) != root:
            folders.clear()
            yield Path(parent).relative_to(root).as_posix(), kind
        folders[:] = sorted(name for name in folders if not _matches(name, _EXCLUDED))


def _is_weights(name: str) -> bool:
    return _matches(name, _WEIGHTS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in patterns)


def _escaped(name: str) -> str:
    """A .gitignore pattern that matches a path only. White space goes in brackets: trailing spaces are stripped."""
    return "".join(f"[{char}]" if char.isspace() else f"\\{char}" if char in "\\*?[]!#" else char for char in name)


def _silent_logger() -> object:
    """A logger that drops Ray's warnings: every problem is raised."""
    import logging

    logger = logging.getLogger("raycol.jobs.package")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
