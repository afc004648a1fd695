"""Model of a disk that loses power: derives the states a failure can leave from a process's writes and fsyncs.

The model assumes that fsync of a file makes its content durable, that fsync of a folder makes its entries durable, and
that nothing else is durable. After each call, a failure can leave

- of each file, the flushed content with none, half or all of the bytes written since;
- of the entries added and removed since their folders were flushed: all, none, those of one folder, or those of all
  folders but one. A rename between two folders is two changes, one in each.

Not modelled: other subsets of entries, calls reordered within a folder, blocks reordered within a file, and damage to
flushed data. Files are append-only. Writes that bypass `os` are not traced (the unnamed spool files of a build).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Tree: TypeAlias = frozenset[tuple[str, bytes | None]]
"""Paths with the contents of files; None for a folder."""

_SHARES = {"none": 0.0, "half": 0.5, "all": 1.0}


@dataclass(eq=False)
class File:
    """A file: the content that processes see, and the durable content."""

    content: bytes = b""
    flushed: bytes = b""


@dataclass(eq=False)
class Folder:
    """A folder: the entries that processes see, and the durable entries."""

    names: dict[str, Node] = field(default_factory=dict)
    flushed: dict[str, Node] = field(default_factory=dict)


Node: TypeAlias = File | Folder


class Disk:
    """Traces the file system calls of this process under a folder, and collects the states a failure can leave.

    Call `around` in place of the functions of `os` in `CALLS`. The initial content is durable, except for the entries
    of `unflushed`. `failures` maps each state to the call after which it can occur.
    """

    CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir")

    def __init__(self, top: Path, unflushed: Iterable[Path] = ()) -> None:
        self._nodes: dict[tuple[int, int], Node] = {}
        self._top = self._scan(top)
        self.failures: dict[Tree, str] = {}
        for path in unflushed:
            folder, name = self._entry(path)
            assert folder
            del folder.flushed[name]
        self._calls = 0
        self._collect("the start")

    def around(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, trace it, and collect the states that a failure after it can leave."""
        result = real(*args, **kwargs)
        getattr(self, f"_{name}")(result, *args, **kwargs)
        self._calls += 1
        self._collect(f"call {self._calls}, {name}")
        return result

    def durable(self) -> Tree:
        """Return the durable state."""
        return frozenset(_tree(self._top, set(), 0.0))

    # The effect of each call on the model; calls outside of the folder have none.

    def _open(self, result: int, path: Any, flags: int, *_: Any, dir_fd: int | None = None) -> None:
        if flags & os.O_CREAT:
            folder, name = self._entry(path, dir_fd)
            if folder and name not in folder.names:
                folder.names[name] = self._nodes[_key(os.fstat(result))] = File()

    def _write(self, result: int, descriptor: int, content: Any) -> None:
        node = self._nodes.get(_key(os.fstat(descriptor)))
        if isinstance(node, File):
            node.content += bytes(content[:result])

    def _fsync(self, _: None, descriptor: int) -> None:
        node = self._nodes.get(_key(os.fstat(descriptor)))
        if isinstance(node, File):
            node.flushed = node.content
        elif node:
            node.flushed = dict(node.names)

    def _mkdir(self, _: None, path: Any, *__: Any, dir_fd: int | None = None) -> None:
        folder, name = self._entry(path, dir_fd)
        if folder:
            folder.names[name] = self._nodes[_key(os.stat(path, dir_fd=dir_fd))] = Folder()

    def _rename(
        self, _: None, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        (source, old_name), (target, new_name) = self._entry(old, src_dir_fd), self._entry(new, dst_dir_fd)
        if source and target:
            target.names[new_name] = source.names.pop(old_name)

    _replace = _rename

    def _link(self, _: None, old: Any, new: Any, **__: Any) -> None:
        (source, old_name), (target, new_name) = self._entry(old), self._entry(new)
        if source and target:
            target.names[new_name] = source.names[old_name]

    def _unlink(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        folder, name = self._entry(path, dir_fd)
        if folder:
            del folder.names[name]

    _rmdir = _unlink

    def _entry(self, path: Any, dir_fd: int | None = None) -> tuple[Folder | None, str]:
        """Return the parent folder, or None if it is outside of the traced folder, and the name of a path."""
        parent, name = os.path.split(os.path.abspath(path)) if dir_fd is None else (dir_fd, os.fspath(path))
        folder = self._nodes.get(_key(os.stat(parent)))
        return (folder if isinstance(folder, Folder) else None), name

    def _scan(self, path: Path) -> Node:
        """Return the node of an existing file or folder."""
        node: Node
        if path.is_dir():
            names = {child.name: self._scan(child) for child in path.iterdir()}
            node = Folder(names, dict(names))
        else:
            node = File(path.read_bytes(), path.read_bytes())
        self._nodes[_key(path.stat())] = node
        return node

    def _collect(self, when: str) -> None:
        unflushed = {folder: path for path, folder in _folders("", self._top) if folder.names != folder.flushed}
        persisted = {"no entries": set(), "all entries": set(unflushed)}
        for folder, path in unflushed.items():
            persisted[f"the entries of {path or '.'}"] = {folder}
            persisted[f"all entries but those of {path or '.'}"] = set(unflushed) - {folder}
        for entries, folders in persisted.items():
            for label, share in _SHARES.items():
                tree = frozenset(_tree(self._top, folders, share))
                self.failures.setdefault(tree, f"after {when}: {entries} and {label} of the unflushed contents")


def write_tree(tree: Tree, root: Path) -> None:
    """Create the files and folders of a tree under a new folder."""
    root.mkdir()
    for path, content in sorted(tree, key=lambda entry: entry[0]):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _folders(path: str, folder: Node) -> Iterator[tuple[str, Folder]]:
    if isinstance(folder, Folder):
        yield path, folder
        for name, node in (folder.flushed | folder.names).items():
            yield from _folders(os.path.join(path, name), node)


def _tree(folder: Node, persisted: set[Folder], share: float, path: str = "") -> Iterator[tuple[str, bytes | None]]:
    """Yield the tree with the unflushed entries of some folders, and a share of each file's unflushed bytes."""
    assert isinstance(folder, Folder)
    for name, node in (folder.names if folder in persisted else folder.flushed).items():
        inner = os.path.join(path, name)
        if isinstance(node, Folder):
            yield inner, None
            yield from _tree(node, persisted, share, inner)
        else:
            unflushed = len(node.content) - len(node.flushed)
            yield inner, node.content[: len(node.flushed) + int(unflushed * share)]
