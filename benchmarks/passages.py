"""Create a large corpus of short passages from the text installed on a machine.

    python benchmarks/passages.py OUT.jsonl [--passages 350000]

Distinct sentences of 4 to 24 words from man pages (without their formatting), descriptions of Debian and of Python
packages, and docstrings of this environment's Python packages. The sentences with the smallest hashes are taken, in
that order, so that any number of them is a mixture of all sources.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import heapq
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import xxhash
from measure import say

_WORDS = range(4, 25)
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n\s*\n")
# A line of roff: a request, whose arguments may be text; a font or size change; an escaped character.
_REQUEST = re.compile(r"^[.'].*$", re.MULTILINE)
_FONT = re.compile(r"\\f(?:\w|\(\w\w|\[\w*\])|\\s[-+]?\d|\\&|\\/|\\,")


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passages", type=int, default=350_000)
    options = parser.parse_args()
    found: dict[int, tuple[str, str]] = {}
    for source in (_man_pages, _debian_packages, _python_packages, _docstrings):
        before = len(found)
        for name, text in source():
            for sentence in _sentences(text):
                found.setdefault(xxhash.xxh3_64_intdigest(sentence.encode()), (name, sentence))
        say(f"{source.__name__[1:]}: {len(found) - before:,} sentences")
    if len(found) < options.passages:
        sys.exit(f"this machine has {len(found):,} distinct sentences, expected at least {options.passages:,}")
    with options.out.open("w", encoding="utf-8") as file:
        for number, key in enumerate(heapq.nsmallest(options.passages, found)):
            name, sentence = found[key]
            file.write(json.dumps({"_id": str(number), "text": sentence, "source": name}, ensure_ascii=False) + "\n")


def _sentences(text: str) -> Iterator[str]:
    for sentence in _SENTENCE.split(text):
        words = sentence.split()
        if len(words) in _WORDS and sum(word.isalpha() for word in words) * 2 > len(words):
            yield " ".join(words)


def _man_pages() -> Iterator[tuple[str, str]]:
    for path in sorted(Path("/usr/share/man").glob("man*/*.gz")):
        try:
            source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        except OSError:
            continue  # a link to nowhere
        text = _FONT.sub("", _REQUEST.sub("\n", source)).replace("\\-", "-").replace("\\ ", " ")
        yield f"man:{path.stem}", "\n\n".join(part for part in text.split("\n\n") if "\\" not in part)


def _debian_packages() -> Iterator[tuple[str, str]]:
    path = Path("/var/lib/dpkg/status")
    for paragraph in path.read_text("utf-8", "replace").split("\n\n") if path.exists() else ():
        package = message_from_string(paragraph)
        yield f"deb:{package['Package']}", re.sub(r"\n \.?", "\n", package["Description"] or "")


def _python_packages() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info/METADATA")):
        package = message_from_string(path.read_text("utf-8", "replace"))
        yield f"py:{package['Name']}", str(package.get_payload())


def _docstrings() -> Iterator[tuple[str, str]]:
    paths = sysconfig.get_paths()
    warnings.simplefilter("ignore", SyntaxWarning)
    for root in map(Path, (paths["stdlib"], paths["purelib"])):
        for path in sorted(root.rglob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"doc:{path.relative_to(root)}", ast.get_docstring(node) or ""


if __name__ == "__main__":
    main()
