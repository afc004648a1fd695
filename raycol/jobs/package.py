"""What a job is sent: the files of a working directory, as Ray packs them, without what a job has no use for.

Left out are what .gitignore and .rayignore name, version control, environments, caches, weights, and by what is in
them indexes and checkpoints: a cluster reads those from shared storage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from raycol.errors import InputError

# Names anywhere in the working directory, as .gitignore has them.
_NEVER = (
    ".git", ".hg", ".svn", ".venv*", "venv", "node_modules", "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".DS_Store", "*.egg-info",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.ckpt", "*.pt", "*.pth", "*.onnx", "pytorch_model*.bin")
_LARGEST_SHOWN = 3
# What a zip archive takes by itself, and with each file beside its name, which stands in it twice.
_ARCHIVE_BYTES = 22
_ENTRY_BYTES = 30 + 46


@dataclass(frozen=True)
class Package:
    """What will be sent.

    Args:
        folder: the working directory.
        files: bytes of each file, by its path in there.
        excludes: what Ray is told to leave out, beside what it leaves out by itself.
        left_out: indexes and checkpoints in there that are not sent, each with what it is.
    """

    folder: Path
    files: dict[str, int]
    excludes: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of the archive: Ray does not compress it, so it is that of the files and of what names them."""
        return _ARCHIVE_BYTES + sum(self.files.values(), sum(_entry_bytes(name) for name in self.files))

    def has(self, path: str) -> bool:
        """Whether a file, or anything in a folder, is sent."""
        name = PurePosixPath(path).as_posix()
        return name == "." or name in self.files or any(file.startswith(f"{name}/") for file in self.files)

    def check_size(self, limit: int) -> None:
        """Raise `InputError` where it is more than the cluster takes."""
        if self.bytes <= limit:
            return
        parts: dict[str, int] = {}
        for file, size in self.files.items():
            top = file.partition("/")[0] + ("/" if "/" in file else "")
            parts[top] = parts.get(top, 0) + size
        largest = sorted(parts, key=lambda name: -parts[name])[:_LARGEST_SHOWN]
        shown = ", ".join(f"{name} ({mib(parts[name])})" for name in largest)
        raise InputError(
            f"{self.folder}: {mib(self.bytes)} in {len(self.files)} files; expected at most {mib(limit)}, which is "
            f"what Ray takes. The largest: {shown}. Leave out what the job does not need (--exclude, a .rayignore), "
            "and put data on shared storage"
        )


def _entry_bytes(name: str) -> int:
    return _ENTRY_BYTES + 2 * len(name.encode(errors="surrogateescape"))


def mib(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**17 else f"{size / 2**10:.1f} KiB"


def size_limit() -> int:
    """Bytes that a cluster takes: what its dashboard accepts in one request, and what its control store keeps."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE))


def pack(folder: Path, exclude: Sequence[str] = ()) -> Package:
    """List what a job in this working directory is sent.

    Args:
        folder: the working directory.
        exclude: further patterns to leave out, as .gitignore has them.

    Raises:
        InputError: no such folder, or one that cannot be read.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root = folder.absolute()
    if not root.is_dir():
        raise InputError(f"{folder}: {'not a folder' if root.exists() else 'no such folder'}; expected the working "
                         "directory of the job")  # fmt: skip
    files: dict[str, int] = {}

    def take(path: Path) -> None:
        if path.is_symlink() and path.is_dir() and path.parent.resolve().is_relative_to(path.resolve()):
            raise InputError(
                f"{path}: a link that leads back to where it is; remove it, or leave it out with --exclude"
            )
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    try:
        left_out = dict(_not_to_send(root))
        excludes = [*_NEVER, *_WEIGHTS, *(f"/{_literally(name)}" for name in left_out), *exclude]
        every = [*get_runtime_env_default_excludes(), *excludes]
        _dir_travel(root, [_get_excludes(root, every)], take, include_gitignore=respects_gitignore(), logger=_quiet())
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be read ({error.strerror}); leave it out with --exclude"
        ) from None
    except ValueError as error:
        raise InputError(f"--exclude: {error}; expected patterns as in .gitignore") from None
    return Package(root, files, excludes, left_out)


def respects_gitignore() -> bool:
    """Whether Ray leaves out what .gitignore names."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _not_to_send(root: Path) -> Iterator[tuple[str, str]]:
    """Indexes and checkpoints in a folder, by what is in them. The folder itself is neither."""
    for place, folders, names in os.walk(root):
        here = set(names)
        inside = set(folders)
        kind = None
        if "partitions" in inside and inside & {"manifests", "builds"}:
            kind = "an index"
        elif "modules.json" in here or ("config.json" in here and any(_is_weights(name) for name in here)):
            kind = "a checkpoint"
        elif "checkpoints" in inside and Path(place).name.endswith("-training"):
            kind = "checkpoints of a training"
        if kind and Path(place) != root:
            folders.clear()
            yield Path(place).relative_to(root).as_posix(), kind
        folders[:] = sorted(name for name in folders if not _matches(name, _NEVER))


def _is_weights(name: str) -> bool:
    return _matches(name, _WEIGHTS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in patterns)


def _literally(name: str) -> str:
    """A path as a pattern that matches nothing else. White space in brackets: it would be cut off at the end."""
    return "".join(f"[{sign}]" if sign.isspace() else f"\\{sign}" if sign in "\\*?[]!#" else sign for sign in name)


def _quiet() -> object:
    """A logger that says nothing: what is wrong is raised."""
    import logging

    logger = logging.getLogger("raycol.jobs.package")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
