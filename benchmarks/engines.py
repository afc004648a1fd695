"""Build and search a collection with raycol, and with other engines in a separate environment."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from collection import Collection, Found
from measure import Cost, in_fresh_process, measured, say

from raycol.index import Hit, Index

_PEER = Path(__file__).parent / "peers" / "peer.py"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")

# One more than recall@10 needs: evaluation ignores a hit that is the query itself.
DEPTH = 11


@dataclass(frozen=True)
class Built:
    """An index of a collection and the cost of its build; `earlier` if another run built it."""

    name: str
    cost: Cost
    bytes_per_token: float
    earlier: bool = False


@dataclass(frozen=True)
class Measured:
    """One engine on one collection. `exact` scores every document; peers do not offer that."""

    built: Built
    exact: Found | None
    search: Found


def measure_raycol(folder: Path, collection: Collection, bits: int) -> Measured:
    """Build in a fresh process from the collection saved in `folder`, and search in this one."""
    say(f"raycol, {bits} bits: building")
    uri = folder / f"raycol-{bits}"
    built = build_raycol(folder, uri, bits)
    index = Index.open(uri)
    say(f"raycol, {bits} bits: searching")
    search = found(index.search(collection.queries, DEPTH))
    exact = found(index.exact(collection.queries, DEPTH))
    return Measured(built, exact, search)


def build_raycol(folder: Path, uri: Path, bits: int) -> Built:
    """Build in a fresh process from the collection saved in `folder`, with defaults."""
    cost = in_fresh_process(_build_raycol, folder, uri, bits)
    return Built(f"raycol, {bits} bits", cost, Index.open(uri).stats().bytes_per_token)


def _build_raycol(folder: Path, uri: Path, bits: int) -> Cost:
    collection = Collection.load(folder)
    with tempfile.TemporaryDirectory() as first:  # warm-up: imports, and compiles the kernels
        Index.create(f"{first}/index", collection.documents(20), bits=bits)
    with measured() as cost:
        Index.create(uri, collection.documents(), bits=bits)
    return cost


def found(hits: Sequence[Sequence[Hit]]) -> Found:
    """Hits whose ids are positions, as arrays."""
    return _padded([[(int(hit.id), hit.score) for hit in row] for row in hits])


def _padded(rows: Sequence[Sequence[tuple[int, float]]]) -> Found:
    width = max(map(len, rows))
    positions_MK = np.full((len(rows), width), -1, dtype=np.int64)
    scores_MK = np.full((len(rows), width), -np.inf, dtype=np.float32)
    for number, row in enumerate(rows):
        for rank, (position, score) in enumerate(row):
            positions_MK[number, rank], scores_MK[number, rank] = position, score
    return Found(positions_MK, scores_MK)


def build_peer(folder: Path, python: Path, engine: str) -> Built:
    """Build another engine's index of the collection saved in `folder`, unless it exists.

    Args:
        folder: as for `build_raycol`.
        python: an interpreter with the engine installed.
        engine: a name that `peers/peer.py` supports.
    """
    report = folder / f"{engine}.json"
    if earlier := report.exists():
        say(f"{engine}: built earlier")
    else:
        say(f"{engine}: building")
        subprocess.run([python, _PEER, engine, "build", folder], check=True)
    result = json.loads(report.read_text())
    n_tokens = int(np.load(folder / "lengths.npy").sum())
    cost = Cost(result["cpu_s"], result["wall_s"], result["peak_bytes"])
    return Built(f"{result['name']}, 4 bits", cost, result["bytes"] / n_tokens, earlier)


class Peer:
    """Another engine with an open index, in a one-threaded process."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions = questions
        self._answers = answers
        self.name = json.loads(answers.readline())["name"]

    def search(
        self, first: int, last: int, k: int = DEPTH, *, together: bool = False, **settings: Any
    ) -> dict[str, Any]:
        """Search for a range of the collection's queries. `peers/peer.py` documents the answer."""
        asked = {"first": first, "last": last, "k": k, "settings": settings, "together": together}
        print(json.dumps(asked), file=self._questions, flush=True)
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer


@contextmanager
def peer(folder: Path, python: Path, engine: str) -> Iterator[Peer]:
    """Open the index that `build_peer` built."""
    command = [str(python), str(_PEER), engine, "serve", str(folder)]
    pipe, environment = subprocess.PIPE, os.environ | _ONE_THREAD
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdin
        assert process.stdout
        yield Peer(process.stdin, process.stdout)
        process.stdin.close()


def found_by_peer(answer: dict[str, Any]) -> Found:
    """A peer's answer as arrays."""
    rows = zip(answer["positions"], answer["scores"], strict=True)
    return _padded([list(zip(positions, scores, strict=True)) for positions, scores in rows])


def measure_peer(folder: Path, collection: Collection, python: Path, n_queries: int | None = None) -> Measured:
    """fast-plaid, 4 bits, over the collection saved in `folder`.

    Args:
        folder: as for `build_raycol`.
        collection: the same collection.
        python: an interpreter that has fast-plaid.
        n_queries: search only the first queries; None for all.
    """
    built = build_peer(folder, python, "fast_plaid")
    say(f"{built.name}: searching")
    with peer(folder, python, "fast_plaid") as opened:
        answer = opened.search(0, n_queries or len(collection.queries))
    return Measured(built, None, found_by_peer(answer))
