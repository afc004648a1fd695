"""A corpus that every machine has: the docstrings of the standard library and of installed packages.

Sources are parsed and never imported, so no code runs; `inspect` reads a few extension modules of the standard
library, whose docstrings are compiled in. The choice depends only on the installed packages and on the seed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from raycol.data import Dataset, Passage

# Extension modules with useful docstrings, whose import has no side effects.
_EXTENSIONS = ("array", "binascii", "builtins", "itertools", "math", "select", "time", "unicodedata", "zlib")
# Widely used modules. All their docstrings are included, so that everyday questions have answers.
_EVERYDAY = {
    "argparse", "base64", "bisect", "calendar", "collections", "contextlib", "copy", "csv", "datetime",
    "difflib", "fnmatch", "fractions", "functools", "genericpath", "getpass", "glob", "gzip", "hashlib",
    "heapq", "inspect", "json", "json.decoder", "json.encoder", "logging", "os", "pathlib", "posixpath",
    "queue", "random", "re", "secrets", "shutil", "socket", "statistics", "string", "subprocess", "tempfile",
    "textwrap", "threading", "traceback", "urllib.parse", "urllib.request", "uuid", "zipfile",
}  # fmt: skip
# Public names of modules whose source newer Pythons keep under another name.
_PUBLIC_NAMES = {"_pydatetime": "datetime", "pathlib._local": "pathlib"}
_NOT_TEXT = {"test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
_VENDORED = {"_vendor", "vendor", "vendored", "_distutils"}

_MIN_WORDS = 5
_MIN_REST_WORDS = 8
# One in four modules is held out for evaluation.
_HELD_OUT_EVERY = 4

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])|\n\s*\n")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring, split into its first sentence and the rest. `name` is the qualified name of the object."""

    module: str
    name: str
    first: str
    rest: str


def split_first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence of a docstring (or its first paragraph, if shorter) and the rest."""
    parts = _SENTENCE_END.split(text.strip(), maxsplit=1)
    first, rest = [*parts, ""][:2]
    return _SPACE.sub(" ", first).strip(), _SPACE.sub(" ", rest).strip()


def collect(limit: int, seed: int = 0) -> list[Docstring]:
    """Return at most `limit` docstrings, sorted by name: two thirds from the standard library.

    Everyday modules take precedence. The last third is shared evenly between the installed packages, so that a large
    one does not crowd out the others.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(_shuffled(library, seed), key=lambda file: _module_name(library, file) not in _EVERYDAY)
    standard = _distinct([*_of_extensions(), *_of_folder(library, files, limit)])
    everyday = [docstring for docstring in standard if docstring.module in _EVERYDAY.union(_EXTENSIONS)]
    others = [docstring for docstring in standard if docstring.module not in _EVERYDAY.union(_EXTENSIONS)]
    n_standard = 2 * limit // 3
    chosen = _sample(everyday, n_standard, seed)
    chosen += _sample(others, n_standard - len(chosen), seed)
    packages = sorted(
        path
        for path in Path(sysconfig.get_paths()["purelib"]).iterdir()
        if (path / "__init__.py").is_file() and path.name not in _NOT_TEXT
    )
    share = max(1, (limit - len(chosen)) // max(1, len(packages)) * 2)
    others = []
    for package in packages:
        # `share` is twice an even share, since many packages have fewer; parsing stops there.
        candidates = _distinct(_of_folder(package.parent, _shuffled(package, seed), share))
        others += _sample(candidates, share, seed)
    chosen += _sample(_distinct(others), limit - len(chosen), seed)
    return sorted(chosen, key=lambda docstring: docstring.name)


def make_dataset(docstrings: Iterable[Docstring], queries: int) -> tuple[Dataset, list[tuple[str, str]]]:
    """Return the demo's test collection, and training pairs from other modules.

    A training pair is (first sentence, rest). A test query is the first sentence of a docstring in a held-out module;
    its only relevant passage is the rest, without that sentence, so that a lexical copy of the query does not give it
    away. All other passages are whole docstrings.

    Args:
        docstrings: from `collect`.
        queries: maximum number of test queries.
    """
    passages, pairs = [], []
    test_queries: dict[str, str] = {}
    for docstring in docstrings:
        usable = len(docstring.first.split()) >= _MIN_WORDS and len(docstring.rest.split()) >= _MIN_REST_WORDS
        held_out = _hash(docstring.module, 0) % _HELD_OUT_EVERY == 0
        if usable and held_out and len(test_queries) < queries:
            test_queries[docstring.name] = docstring.first
            passages.append(Passage(docstring.name, docstring.name, docstring.rest))
            continue
        text = f"{docstring.first} {docstring.rest}".strip()
        passages.append(Passage(docstring.name, docstring.name, text))
        if usable and not held_out:
            pairs.append((docstring.first, f"{docstring.name} {docstring.rest}"))
    qrels = {f"q:{name}": {name: 1} for name in test_queries}
    return Dataset(passages, {f"q:{name}": first for name, first in test_queries.items()}, qrels), pairs


def _of_folder(root: Path, files: Iterable[Path], limit: int) -> Iterator[Docstring]:
    """Yield the docstrings of source files under `root`, stopping after the file that reaches `limit`."""
    count = 0
    for file in files:
        if count >= limit:
            return
        for docstring in _of_file(file, _module_name(root, file)):
            count += 1
            yield docstring


def _module_name(root: Path, file: Path) -> str:
    name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    return _PUBLIC_NAMES.get(name, name)


def _of_file(file: Path, module: str) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstring(module, name, ast.get_docstring(node))
        if isinstance(node, ast.Module | ast.ClassDef):
            stack += [
                (f"{name}.{child.name}", child)
                for child in node.body
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            ]


def _of_extensions() -> Iterator[Docstring]:
    for module in _EXTENSIONS:
        if module not in sys.builtin_module_names and module not in sys.stdlib_module_names:
            continue
        for name, member in sorted(vars(importlib.import_module(module)).items()):
            if not name.startswith("_") and callable(member):
                yield from _docstring(module, f"{module}.{name}", inspect.getdoc(member))


def _docstring(module: str, name: str, text: str | None) -> Iterator[Docstring]:
    """Yield the docstring, unless the name is private or the text has fewer than 5 words."""
    private = any(part.startswith("_") and not part.startswith("__") for part in name.split(".")[1:])
    if private or not text or len(text.split()) < _MIN_WORDS:
        return
    first, rest = split_first_sentence(text)
    if first:
        yield Docstring(module, name, first, rest)


def _shuffled(folder: Path, seed: int) -> Iterator[Path]:
    """Return the source files under a folder, in an order that depends on the seed and their relative paths."""
    files: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_TEXT | _VENDORED]
        files += [os.path.join(parent, name) for name in names if name.endswith(".py")]
    start = len(os.path.join(folder, ""))
    # Few of a package's tens of thousands of files are read: `Path` objects are created lazily.
    files.sort(key=lambda file: (_hash(file[start:].replace(os.sep, "/"), seed), file))
    return map(Path, files)


def _distinct(docstrings: Iterable[Docstring]) -> list[Docstring]:
    """Drop docstrings with the name or text of an earlier one: copies would be each other's distractors."""
    names, texts, distinct = set(), set(), []
    for docstring in docstrings:
        text = (docstring.first, docstring.rest)
        if docstring.name not in names and text not in texts:
            names.add(docstring.name)
            texts.add(text)
            distinct.append(docstring)
    return distinct


def _sample(docstrings: list[Docstring], n: int, seed: int) -> list[Docstring]:
    return sorted(docstrings, key=lambda docstring: _hash(docstring.name, seed))[:n]


def _hash(text: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(errors="replace"), seed=seed)
