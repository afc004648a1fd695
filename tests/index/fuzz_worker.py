"""Read thousands of damaged and forged indexes in a separate process, which may crash.

    python -m tests.index.fuzz_worker FOLDER SEED START STOP

Mutant n of a seed is deterministic: `START n STOP n+1` reproduces it. The number of each mutant goes to stdout before
it is read, so the last number names the mutant that ended the process. Other failures go to stderr.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raycol.errors import RaycolError
from raycol.index import Index
from raycol.index.format import lists
from raycol.index.write.verify import verify_index
from raycol.storage import open_store
from tests.index.forging import (
    FILE,
    TABLE_START,
    assemble,
    body_of,
    file_info,
    folders,
    seal,
    small_documents,
    split_content,
    to_json,
)

# A mutant that takes longer ends the process by SIGALRM.
MAX_SECONDS = 5
MAX_MEMORY = 4 << 30

# Methods that read few files, so they return correct results if other files are damaged.
PARTIAL_READS = ("metadata", "reconstruct", "contains")

HEADER = 128  # of a small .npy file
NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**48,
    2**62,
    2**63,
    2**64 - 1,
]
JSON_NUMBERS = [*NUMBERS, -1, 4, 5, 6, 9, 10, 16, 64, 2**30, 2**40, 2**52, 2**53, 10**30, 0.5, 1e300]

Mutant = dict[str, bytes | None]  # changed files by name in the index; None for a deleted one


def make_index(root: Path) -> None:
    """Create an index of one version: eight documents in two partitions, one with lists; two of them are deleted."""
    lists.STORED_TOKENS = 8
    index = Index.create(root, small_documents(0, 8), bits=2, n_centroids=4, partition_tokens=8)
    assert [partition.has_lists for partition in index._snapshot.partitions] == [True, False]
    index.delete(["d1", "d6"])
    index.vacuum(keep=1)
    assert (len(index.partitions), len(index), index.version) == (2, 6, 2)


def flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_value(rng: random.Random, content: bytes) -> bytes:
    return content[:HEADER] + flip(rng, content[HEADER:])


def put_number(rng: random.Random, content: bytes) -> bytes:
    """Overwrite one element of an array."""
    width = rng.choice([1, 2, 4, 8])
    offsets = range(HEADER, len(content) - width + 1, width)
    if not offsets:
        return flip(rng, content)
    at = rng.choice(offsets)
    number = rng.choice(NUMBERS) % 256**width
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def swap_values(rng: random.Random, content: bytes) -> bytes:
    """Swap two elements of an array."""
    width = rng.choice([1, 2, 4, 8])
    offsets = range(HEADER, len(content) - width + 1, width)
    if len(offsets) < 2:
        return flip(rng, content)
    changed = bytearray(content)
    one, other = rng.sample(offsets, 2)
    changed[one : one + width], changed[other : other + width] = (
        content[other : other + width],
        content[one : one + width],
    )
    return bytes(changed)


def fill(rng: random.Random, content: bytes) -> bytes:
    start = rng.choice([0, HEADER, rng.randrange(len(content) + 1)])
    stop = rng.choice([len(content), min(len(content), start + rng.randrange(1, 9))])
    filling = rng.choice(
        [bytes(max(0, stop - start)), b"\xff" * max(0, stop - start), rng.randbytes(max(0, stop - start))]
    )
    return content[:start] + filling + content[start + len(filling) :]


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.choice([0, len(content) - 1, rng.randrange(len(content) + 1)])]


def insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.choice([len(content), rng.randrange(len(content) + 1)])
    return content[:at] + rng.randbytes(rng.choice([1, 2, 4, 8, 100])) + content[at:]


def remove(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.choice([1, 2, 4, 8, 100]) :]


def replace_number(rng: random.Random, content: bytes) -> bytes:
    """Replace a number in JSON text."""
    matches = list(re.finditer(rb"(?<=[:,\[])-?\d+(\.\d+)?", content))
    if not matches:
        return flip(rng, content)
    match = rng.choice(matches)
    return content[: match.start()] + str(rng.choice(JSON_NUMBERS)).encode() + content[match.end() :]


def replace_value(rng: random.Random, content: bytes) -> bytes:
    """Replace a value in JSON text by another value of it, or by an empty one."""
    matches = list(re.finditer(rb'"[^"]*"|\{[^{}]*\}|\d+|true|null', content))
    if len(matches) < 2:
        return flip(rng, content)
    match, other = rng.sample(matches, 2)
    return content[: match.start()] + rng.choice([other[0], b"null", b"{}", b"[]", b'""']) + content[match.end() :]


BYTES: list[Callable[[random.Random, bytes], bytes]] = [flip, fill, cut, insert, remove]
VALUES: list[Callable[[random.Random, bytes], bytes]] = [flip_value, put_number, put_number, swap_values]
TEXT: list[Callable[[random.Random, bytes], bytes]] = [replace_number, replace_number, replace_value]


class Mutator:
    """Makes mutants of the files of one index of one version."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.manifest = next(name for name in files if name.startswith("manifests/"))
        self.others = sorted(set(files) - {self.manifest})
        self.body = to_json(body_of(files[self.manifest]))

    def mutant(self, rng: random.Random) -> tuple[Mutant, bool]:
        """Return changed files, and whether the manifest's checksums were updated to match."""
        changed: Mutant = {}
        body, sealed = self.body, rng.random() < 0.7
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            kind = rng.random()
            if kind < 0.25:
                if sealed:
                    body = rng.choice([*TEXT, *TEXT, *BYTES])(rng, body)
                else:
                    content = rng.choice([*TEXT, *BYTES])(rng, changed.get(self.manifest) or self.files[self.manifest])
                    changed[self.manifest] = None if rng.random() < 0.05 else content
                continue
            name = rng.choice(self.others)
            if name.endswith(FILE) and kind > 0.35:
                changed[name] = self.change_sections(rng, changed.get(name) or self.files[name], sealed)
            elif kind < 0.3:
                changed[name] = None
            elif kind < 0.4:
                other = rng.choice(self.similar(name)) if rng.random() < 0.8 else rng.choice(self.others)
                changed[name], changed[other] = self.files[other], self.files[name]
            else:
                operations = BYTES if rng.random() < 0.3 else [*VALUES, flip]
                changed[name] = rng.choice(operations)(rng, changed.get(name) or self.files[name])
        if sealed:
            changed[self.manifest] = seal(self.update_checksums(body, changed) if rng.random() < 0.9 else body)
        return {name: content for name, content in changed.items() if content != self.files[name]}, sealed

    def change_sections(self, rng: random.Random, content: bytes, sealed: bool) -> bytes:
        """Change a section of a partition's file, or its table."""
        start = content.rfind(TABLE_START)
        try:
            sections = split_content(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return flip(rng, content)  # it was changed before
        if rng.random() < 0.2 or not sections:
            return content[:start] + rng.choice([*TEXT, *TEXT, *BYTES])(rng, content[start:])
        name = rng.choice(sorted(sections))
        if rng.random() < 0.1:
            other = rng.choice(sorted(sections))
            sections[name], sections[other] = sections[other], sections[name]
        elif rng.random() < 0.3:
            sections[name] = rng.choice(BYTES)(rng, sections[name])
        else:
            sections[name] = rng.choice([*VALUES, flip])(rng, bytes(HEADER) + sections[name])[HEADER:]
        changed, table = assemble(sections)
        return changed + (table if sealed and rng.random() < 0.9 else content[start:])

    def similar(self, name: str) -> list[str]:
        """Return files of the same base name or the same length."""
        last = name.rpartition("/")[2]
        return [
            other
            for other in self.others
            if other.endswith(f"/{last}") or len(self.files[other]) == len(self.files[name])
        ]

    def update_checksums(self, body: bytes, changed: Mutant) -> bytes:
        """Update lengths and checksums of changed files in a manifest body; return it unchanged if it is invalid."""
        try:
            decoded = body_of(b'{"manifest":%s}' % body)
            for folder, files in folders(decoded).items():
                for name in files:
                    if content := changed.get(f"{folder}/{name}"):
                        files[name] = file_info(content)
                        if name == FILE and (start := content.rfind(TABLE_START)) >= 0:
                            put_table(decoded, folder, content[start:])
            return to_json(decoded)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return body


def put_table(body: Any, folder: str, table: bytes) -> None:
    next(info for info in body["partitions"] if folder == f"partitions/{info['name']}")["table"] = file_info(table)


class Reader:
    """Reads mutants in one folder, into which only changed files are written."""

    def __init__(self, root: Path, files: dict[str, bytes]) -> None:
        self.root = root
        self.files = files
        self.queries = [next(iter(small_documents(number, number + 1))).embeddings for number in (0, 2)]
        self.outcomes = {"refused": 0, "read": 0}
        self.expected: dict[str, Any] = {}  # results of the intact index

    def write(self, mutant: Mutant) -> None:
        for name, content in mutant.items():
            path = self.root / name
            path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
            if content is not None:
                path.write_bytes(content)

    def read(self, mutant: Mutant, sealed: bool, rng: random.Random) -> None:
        """Check that every use of a mutant returns a result or raises `RaycolError`, and that damage is detected."""
        trust = rng.random() < 0.4
        self.write(mutant)
        damaged = bool(mutant) and not sealed
        if damaged or trust:
            lines = self.attempt(lambda: verify_index(open_store(self.root)))
            assert lines != [] or not damaged, "verify reports nothing"
        index = self.attempt(lambda: Index.open(self.root, trust=trust))
        uses = self.uses(index) if index else []
        rng.shuffle(uses)
        results = [self.attempt(use) for _, use in uses[:2]]
        if any(result is not None for result in results):  # most rejected mutants are rejected by all uses
            results += [self.attempt(use) for _, use in uses[2:]]
        for (name, _), result in zip(uses, results, strict=False):
            if not mutant:
                self.expected[name] = result
            correct = name in PARTIAL_READS and result == self.expected[name]
            assert not damaged or trust or result is None or correct, f"{name}: damage was not detected"
        self.outcomes["read" if any(result is not None for result in results) else "refused"] += 1

    def uses(self, index: Index) -> list[tuple[str, Callable[[], Any]]]:
        text = "n >= 1 and t like 't%' and day < '2020-02-01'"
        return [
            ("search", lambda: self.hits(index, index.search(self.queries, n_probe=2, n_rescore=1, k=1), 1)),
            ("exact", lambda: self.hits(index, index.exact(self.queries, k=99), 99)),
            ("filter", lambda: index.search(self.queries, filter=text)),
            ("metadata", lambda: index.metadata(["d0", "d7"])),
            ("reconstruct", lambda: [index.reconstruct(id_).tolist() for id_ in ("d0", "d7")]),
            ("contains", lambda: ("d3" in index, "d9" in index)),
            ("stats", lambda: index.stats() and None),
        ]

    @staticmethod
    def hits(index: Index, found: list[Any], k: int) -> list[Any]:
        for hits in found:
            assert len(hits) == min(k, len(index)), "fewer hits than documents"
            assert all(np.isfinite(hit.score) and isinstance(hit.id, str) for hit in hits), "an invalid hit"
        return found

    @staticmethod
    def attempt(use: Callable[[], Any]) -> Any:
        try:
            return use()
        except RaycolError:
            return None


def main(folder: Path, seed: int, start: int, stop: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    pa.set_cpu_count(1)
    root = folder / f"index-{start}"
    make_index(root)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    files = {name: (root / name).read_bytes() for name in names}
    mutator, reader = Mutator(files), Reader(root, files)
    reader.read({}, False, random.Random(0))  # numba compiles
    assert reader.outcomes == {"refused": 0, "read": 1}
    failures = 0
    for number in range(start, stop):
        os.write(sys.stdout.fileno(), b"%d\n" % number)
        rng = random.Random(f"{seed}-{number}")
        mutant, sealed = mutator.mutant(rng)
        signal.alarm(MAX_SECONDS)
        try:
            reader.read(mutant, sealed, rng)
        except Exception:
            failures += 1
            sys.stderr.write(f"seed {seed}, mutant {number}: {sorted(mutant)}, sealed: {sealed}\n")
            traceback.print_exc()
        signal.alarm(0)
        reader.write({name: files[name] for name in mutant})
    sys.stdout.write(f"{reader.outcomes}\n")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
