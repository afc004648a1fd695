"""Build and search an engine's index of given embeddings; run by `raycol.studies.peer` with a Python that has it.

    python engine.py ENGINE FOLDER SETTINGS     ENGINE is raycol, fast_plaid or voyager; SETTINGS is JSON

FOLDER holds documents.npy, documents-lengths.npy, queries.npy and queries-lengths.npy. The answer goes to
FOLDER/answer.json. It imports nothing of raycol, except for the engine raycol.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Texts = list[np.ndarray[Any, Any]]

# PyLate's settings of Voyager (pylate/indexes/voyager.py).
_M, _EF_CONSTRUCTION = 64, 200


def raycol(documents: Texts, queries: Texts, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Build on `workers` Ray workers, or without Ray if it is None; search with `threads`."""
    from raycol.index import Document, Index

    if settings["workers"] is None:
        Index.create(
            folder / "index",
            (Document(str(number), tokens) for number, tokens in enumerate(documents)),
            seed=settings["seed"],
        )
    else:
        from raycol.indexing import IndexConfig, build_index

        np.savez(
            folder / "corpus.npz",
            embeddings=np.concatenate(documents),
            lengths=np.array([len(tokens) for tokens in documents]),
            ids=np.array([str(number) for number in range(len(documents))]),
        )
        build_index(
            IndexConfig(
                corpus=str(folder / "corpus.npz"), embeddings_column="embeddings", out=str(folder / "index"),
                num_workers=settings["workers"], seed=settings["seed"],
                docs_per_partition=max(1, -(-len(documents) // 4)),  # the same 4 parts for any number of workers
            )
        )  # fmt: skip
    index = Index.open(folder / "index")
    search = index.search if settings["prune"] else index.exact
    hits = search(queries, settings["k"], threads=settings["search_threads"])
    return {
        "hits": [[hit.id for hit in found] for found in hits],
        "bytes": _digest(folder / "index", leave_out=("build-report.json",)),
        "version": _version("raycol"),
    }


def fast_plaid(documents: Texts, queries: Texts, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """fast-plaid, 4 bits, otherwise its defaults, on the CPU."""
    import torch
    from fast_plaid import search

    torch.set_num_threads(settings["search_threads"])
    engine = search.FastPlaid(index=str(folder / "index"), device="cpu")
    tensors = [torch.from_numpy(tokens.copy()) for tokens in documents]
    engine.create(documents_embeddings=tensors, nbits=4, seed=42 + settings["seed"])  # 42 is its default
    hits = []
    for query in queries:
        (found,) = engine.search([torch.from_numpy(query.copy())], top_k=settings["k"], show_progress=False)
        hits.append([str(position) for position, _ in found])
    return {"hits": hits, "bytes": _digest(folder / "index"), "version": _version("fast-plaid")}


def voyager(documents: Texts, queries: Texts, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """HNSW over tokens. A document's score is the sum over query tokens of the best similarity that was found."""
    from voyager import Index, Space

    tokens_TD = np.concatenate(documents)
    document_T = np.repeat(np.arange(len(documents)), [len(tokens) for tokens in documents])
    index = Index(Space.Cosine, tokens_TD.shape[1], M=_M, ef_construction=_EF_CONSTRUCTION, random_seed=1)
    started = time.perf_counter()
    index.add_items(tokens_TD, num_threads=1)
    build_s = time.perf_counter() - started
    neighbours = min(settings["neighbours"], len(tokens_TD))
    ef = max(settings["ef"], neighbours)

    def find(query_QD: np.ndarray[Any, Any], budget: int) -> list[int]:
        found_QK, distances_QK = index.query(query_QD, k=neighbours, num_threads=1, query_ef=ef)
        scores: dict[int, float] = {}
        for found, distances in zip(document_T[found_QK.astype(np.int64)], distances_QK, strict=True):
            best: dict[int, float] = {}
            for document, distance in zip(found.tolist(), distances.tolist(), strict=True):
                best.setdefault(document, 1 - distance)  # nearest first
            for document, similarity in best.items():
                scores[document] = scores.get(document, 0.0) + similarity
        return sorted(scores, key=lambda document: (-scores[document], document))[:budget]

    answer: dict[str, Any] = {}
    for budget in settings["budgets"]:
        find(queries[0], budget)
        positions, milliseconds = [], []
        for query in queries:
            started = time.perf_counter()
            positions.append(find(query, budget))
            milliseconds.append(1000 * (time.perf_counter() - started))
        answer[str(budget)] = {"positions": positions, "ms": milliseconds}
    return {"found": answer, "build_s": build_s, "version": _version("voyager")}


def _digest(folder: Path, leave_out: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in leave_out:
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except Exception:
        return ""


def _load(folder: Path, name: str) -> Texts:
    return np.split(np.load(folder / f"{name}.npy"), np.cumsum(np.load(folder / f"{name}-lengths.npy"))[:-1])


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    engines = {"raycol": raycol, "fast_plaid": fast_plaid, "voyager": voyager}
    place = Path(sys.argv[2])
    result = engines[sys.argv[1]](_load(place, "documents"), _load(place, "queries"), place, json.loads(sys.argv[3]))
    (place / "answer.json").write_text(json.dumps(result))
