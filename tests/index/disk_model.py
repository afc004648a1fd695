"""What a power failure may leave of what a process wrote: a model of a disk between a process and its fsyncs.

What the model takes for granted: a file is safe up to where fsync last found it, a folder's names are safe as fsync of
that folder last found them, and nothing else is safe. So what a failure may leave, after each call, is

- of each file what was flushed of it, with none, half or all of what was written since;
- of the names made and removed since their folders were flushed: all, none, those of one folder, or those of all
  folders but one. A rename between two folders is two changes, one in each.

What it leaves out: other subsets of the names, calls that reach the disk out of order within one folder, blocks
written out of order within one file, and damage to what had been flushed. Files are only ever written at their end.
Writes that do not go through `os` are not seen (the files without names that documents wait in).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Tree: TypeAlias = frozenset[tuple[str, bytes | None]]
"""Paths with the contents of files, and None for folders."""

_SHARES = {"none": 0.0, "half": 0.5, "all": 1.0}


@dataclass(eq=False)
class File:
    """A file, as processes see it and as it is on the disk for sure."""

    content: bytes = b""
    flushed: bytes = b""


@dataclass(eq=False)
class Folder:
    """A folder, as processes see it and as it is on the disk for sure."""

    names: dict[str, Node] = field(default_factory=dict)
    flushed: dict[str, Node] = field(default_factory=dict)


Node: TypeAlias = File | Folder


class Disk:
    """Follows the calls of this process under a folder; collects every state that a failure might have left.

    `around` is to be called in place of the functions of `os` that `CALLS` names. What is there at the start is safe,
    but for the names of `unflushed`.
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
        """Make a call, follow it, and collect what a failure after it may leave."""
        result = real(*args, **kwargs)
        getattr(self, f"_{name}")(result, *args, **kwargs)
        self._calls += 1
        self._collect(f"call {self._calls}, {name}")
        return result

    def sure(self) -> Tree:
        """What is left if nothing is that is not sure."""
        return frozenset(_tree(self._top, set(), 0.0))

    # What each call does. Those that change what is outside of the folder do nothing here.

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
        """The folder that a path's last name stands in, None where it is not followed."""
        parent, name = os.path.split(os.path.abspath(path)) if dir_fd is None else (dir_fd, os.fspath(path))
        folder = self._nodes.get(_key(os.stat(parent)))
        return (folder if isinstance(folder, Folder) else None), name

    def _scan(self, path: Path) -> Node:
        """What is there already."""
        node: Node
        if path.is_dir():
            names = {child.name: self._scan(child) for child in path.iterdir()}
            node = Folder(names, dict(names))
        else:
            node = File(path.read_bytes(), path.read_bytes())
        self._nodes[_key(path.stat())] = node
        return node

    def _collect(self, when: str) -> None:
        unsure = {folder: path for path, folder in _folders("", self._top) if folder.names != folder.flushed}
        kept = {"no names": set(), "all names": set(unsure)}
        for folder, path in unsure.items():
            kept[f"the names in {path or '.'}"] = {folder}
            kept[f"all names but those in {path or '.'}"] = set(unsure) - {folder}
        for names, folders in kept.items():
            for share, part in _SHARES.items():
                tree = frozenset(_tree(self._top, folders, part))
                self.failures.setdefault(tree, f"after {when}: {names} and {share} of the contents not flushed")


def write_tree(tree: Tree, place: Path) -> None:
    """Make the files and folders of a tree."""
    place.mkdir()
    for path, content in sorted(tree, key=lambda entry: entry[0]):
        if content is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(content)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _folders(path: str, folder: Node) -> Iterator[tuple[str, Folder]]:
    if isinstance(folder, Folder):
        yield path, folder
        for name, node in (folder.flushed | folder.names).items():
            yield from _folders(os.path.join(path, name), node)


def _tree(folder: Node, kept: set[Folder], part: float, path: str = "") -> Iterator[tuple[str, bytes | None]]:
    assert isinstance(folder, Folder)
    for name, node in (folder.names if folder in kept else folder.flushed).items():
        inner = os.path.join(path, name)
        if isinstance(node, Folder):
            yield inner, None
            yield from _tree(node, kept, part, inner)
        else:
            unsure = len(node.content) - len(node.flushed)
            yield inner, node.content[: len(node.flushed) + int(unsure * part)]
