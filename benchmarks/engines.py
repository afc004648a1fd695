"""Building and searching a collection with raycol, and with fast-plaid in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collection import Collection, Found
from measure import Cost, in_fresh_process, measured, say

from raycol.index import Hit, Index

PEER = Path(__file__).parent / "peers" / "fast_plaid_build.py"

# One more than recall@10 needs: a query may find itself, which evaluation leaves out.
DEPTH = 11


@dataclass(frozen=True)
class Measured:
    """One engine on one collection. `exact` scores every document; the peer has no such search."""

    name: str
    build: Cost
    bytes_per_token: float
    exact: Found | None
    search: Found


def measure_raycol(folder: Path, collection: Collection, bits: int) -> Measured:
    """Build in a fresh process from the collection saved in `folder`; search here."""
    say(f"raycol, {bits} bits: building")
    uri = folder / f"raycol-{bits}"
    cost = in_fresh_process(_build_raycol, folder, uri, bits)
    index = Index.open(uri)
    say(f"raycol, {bits} bits: searching")
    search = _found(index.search(collection.queries, DEPTH))
    exact = _found(index.exact(collection.queries, DEPTH))
    return Measured(f"raycol, {bits} bits", cost, index.stats().bytes_per_token, exact, search)


def _build_raycol(folder: Path, uri: Path, bits: int) -> Cost:
    collection = Collection.load(folder)
    with tempfile.TemporaryDirectory() as first:  # imports and compiles what is compiled once
        Index.create(f"{first}/index", collection.documents(20), bits=bits)
    with measured() as cost:
        Index.create(uri, collection.documents(), bits=bits)
    return cost


def _found(hits: Sequence[Sequence[Hit]]) -> Found:
    return Found(
        np.array([[int(hit.id) for hit in row] for row in hits]),
        np.array([[hit.score for hit in row] for row in hits], dtype=np.float32),
    )


def measure_peer(folder: Path, collection: Collection, python: Path, n_queries: int | None = None) -> Measured:
    """fast-plaid, 4 bits, over the collection saved in `folder`.

    Args:
        folder: as for `measure_raycol`.
        collection: the same collection.
        python: an interpreter that has fast-plaid.
        n_queries: search only the first queries; None for all.
    """
    say("fast-plaid: building and searching")
    command = [python, PEER, folder, "--results", str(DEPTH), "--queries", str(n_queries or len(collection.queries))]
    subprocess.run(list(map(str, command)), check=True)
    result = json.loads((folder / "peer.json").read_text())
    say(f"fast-plaid: searched in {result['search_s']:.0f} s")
    return Measured(
        f"fast-plaid {result['version']}, 4 bits",
        Cost(result["cpu_s"], result["wall_s"], result["peak_bytes"]),
        result["bytes"] / len(collection.tokens_TD),
        None,
        Found(np.load(folder / "peer_positions.npy"), np.load(folder / "peer_scores.npy")),
    )
