"""Reads thousands of damaged and forged indexes, in a process of its own: a crash is a result too.

    python -m tests.index.fuzz_worker FOLDER SEED START STOP

Mutant number n of a seed is always the same: `START n STOP n+1` repeats one. Each number is written to stdout before
its mutant is read: the last one is the one that ended the process. What is wrong without ending it goes to stderr.
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
from raycol.index.write.verify import verify_index
from raycol.storage import open_store
from tests.index.forging import body_of, file_info, folders, seal, small_documents, to_json

# A mutant that takes longer ends the process by SIGALRM, wherever it is.
MAX_SECONDS = 5
MAX_MEMORY = 4 << 30

# What reads a few files only, and answers right where others are damaged.
LOOKUPS = ("metadata", "reconstruct", "contains")

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

Mutant = dict[str, bytes | None]  # files that differ, by their names in the index; None for one that is gone


def make_index(root: Path) -> None:
    """Eight documents in two partitions, two of them deleted, in one version."""
    index = Index.create(root, small_documents(0, 8), bits=2, n_centroids=4, partition_tokens=8)
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
    """A number at a place where an array has one."""
    width = rng.choice([1, 2, 4, 8])
    places = range(HEADER, len(content) - width + 1, width)
    if not places:
        return flip(rng, content)
    at = rng.choice(places)
    number = rng.choice(NUMBERS) % 256**width
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def swap_values(rng: random.Random, content: bytes) -> bytes:
    """Two numbers of an array in each other's place."""
    width = rng.choice([1, 2, 4, 8])
    places = range(HEADER, len(content) - width + 1, width)
    if len(places) < 2:
        return flip(rng, content)
    changed = bytearray(content)
    one, other = rng.sample(places, 2)
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


def other_number(rng: random.Random, content: bytes) -> bytes:
    """Another number in JSON text."""
    found = list(re.finditer(rb"(?<=[:,\[])-?\d+(\.\d+)?", content))
    if not found:
        return flip(rng, content)
    match = rng.choice(found)
    return content[: match.start()] + str(rng.choice(JSON_NUMBERS)).encode() + content[match.end() :]


def other_part(rng: random.Random, content: bytes) -> bytes:
    """A piece of JSON text, or of any other, in another's place."""
    found = list(re.finditer(rb'"[^"]*"|\{[^{}]*\}|\d+|true|null', content))
    if len(found) < 2:
        return flip(rng, content)
    match, other = rng.sample(found, 2)
    return content[: match.start()] + rng.choice([other[0], b"null", b"{}", b"[]", b'""']) + content[match.end() :]


BYTES: list[Callable[[random.Random, bytes], bytes]] = [flip, fill, cut, insert, remove]
VALUES: list[Callable[[random.Random, bytes], bytes]] = [flip_value, put_number, put_number, swap_values]
TEXT: list[Callable[[random.Random, bytes], bytes]] = [other_number, other_number, other_part]


class Mutator:
    """Makes mutants of the files of one index of one version."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.manifest = next(name for name in files if name.startswith("manifests/"))
        self.others = sorted(set(files) - {self.manifest})
        self.body = to_json(body_of(files[self.manifest]))

    def mutant(self, rng: random.Random) -> tuple[Mutant, bool]:
        """Files that differ from the index's, and whether checksums were made to suit them."""
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
            if kind < 0.3:
                changed[name] = None
            elif kind < 0.4:
                other = rng.choice(self.alike(name)) if rng.random() < 0.8 else rng.choice(self.others)
                changed[name], changed[other] = self.files[other], self.files[name]
            else:
                operations = BYTES if rng.random() < 0.3 else [*VALUES, flip]
                changed[name] = rng.choice(operations)(rng, changed.get(name) or self.files[name])
        if sealed:
            changed[self.manifest] = seal(self.promise(body, changed) if rng.random() < 0.9 else body)
        return {name: content for name, content in changed.items() if content != self.files[name]}, sealed

    def alike(self, name: str) -> list[str]:
        """Files of the same name, or of the same length."""
        last = name.rpartition("/")[2]
        return [
            other
            for other in self.others
            if other.endswith(f"/{last}") or len(self.files[other]) == len(self.files[name])
        ]

    def promise(self, body: bytes, changed: Mutant) -> bytes:
        """A body with the lengths and checksums of files that were changed, where it still is one."""
        try:
            decoded = body_of(b'{"manifest":%s}' % body)
            for folder, files in folders(decoded).items():
                for name in files:
                    if content := changed.get(f"{folder}/{name}"):
                        files[name] = file_info(content)
            return to_json(decoded)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return body


class Reader:
    """Reads mutants in a folder, where only what differs is written."""

    def __init__(self, root: Path, files: dict[str, bytes]) -> None:
        self.root = root
        self.files = files
        self.queries = [next(iter(small_documents(number, number + 1))).embeddings for number in (0, 2)]
        self.outcomes = {"refused": 0, "read": 0}
        self.whole: dict[str, Any] = {}  # results of the index itself

    def put(self, mutant: Mutant) -> None:
        for name, content in mutant.items():
            path = self.root / name
            path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
            if content is not None:
                path.write_bytes(content)

    def read(self, mutant: Mutant, sealed: bool, rng: random.Random) -> None:
        """Everything that can be done with a mutant gives results or a `RaycolError`."""
        trust = rng.random() < 0.4
        self.put(mutant)
        damaged = bool(mutant) and not sealed
        if damaged or trust:
            lines = self.attempt(lambda: verify_index(open_store(self.root)))
            assert lines != [] or not damaged, "verify finds nothing"
        index = self.attempt(lambda: Index.open(self.root, trust=trust))
        uses = self.uses(index) if index else []
        rng.shuffle(uses)
        results = [self.attempt(use) for _, use in uses[:2]]
        if any(result is not None for result in results):  # one that is refused is mostly refused to all
            results += [self.attempt(use) for _, use in uses[2:]]
        for (name, _), result in zip(uses, results, strict=False):
            if not mutant:
                self.whole[name] = result
            right = name in LOOKUPS and result == self.whole[name]
            assert not damaged or trust or result is None or right, f"{name}: damage was not noticed"
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
            assert all(np.isfinite(hit.score) and isinstance(hit.id, str) for hit in hits), "a hit that is none"
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
        reader.put({name: files[name] for name in mutant})
    sys.stdout.write(f"{reader.outcomes}\n")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
