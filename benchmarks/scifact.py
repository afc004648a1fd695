"""SciFact (Wadden et al. 2020, as BEIR has it) in embeddings of answerai-colbert-small-v1, from local folders.

RAYCOL_DATA is a folder with the BEIR folder `scifact`, RAYCOL_MODELS one with `answerai-colbert-small-v1`; the
defaults are in ../shared.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collection import Collection, Found
from measure import say
from numpy.typing import NDArray

from raycol.data.beir import load_beir
from raycol.data.collection import Dataset
from raycol.data.queries import read_queries
from raycol.evaluation import score_run

_SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = Path(os.environ.get("RAYCOL_DATA", _SHARED / "data")) / "scifact"
MODEL = Path(os.environ.get("RAYCOL_MODELS", _SHARED / "models")) / "answerai-colbert-small-v1"

# Files of a cache: float16 tokens, tokens per document, ids; float32 query tokens, tokens per query, ids.
_ARRAYS = ("sf_tokens.npy", "sf_lens.npy", "sf_q.npy", "sf_qlens.npy")
_IDS = ("sf_ids.json", "sf_qids.json")


@dataclass(frozen=True)
class SciFact:
    """Embeddings of all passages and of the test split's queries, in the dataset's order."""

    collection: Collection
    dataset: Dataset

    def ndcg(self, found: Found) -> float:
        """nDCG@10 of the results of all queries, without passages that are the query itself."""
        run = {
            query_id: {
                id_: float(score)
                for position, score in zip(positions_K, scores_K, strict=True)
                if position >= 0 and (id_ := self.dataset.passages[position].id) != query_id
            }
            for query_id, positions_K, scores_K in zip(
                self.dataset.queries, found.positions_MK, found.scores_MK, strict=True
            )
        }
        return score_run(self.dataset.qrels, run)["nDCG@10"]


def missing(cache: Path | None) -> str | None:
    """Describe what is missing, or return None."""
    if not DATA.is_dir():
        return f"no folder {DATA}; set RAYCOL_DATA to a folder with the BEIR folder scifact"
    if not (cache and _is_cached(cache)) and not MODEL.is_dir():
        return f"no folder {MODEL}; set RAYCOL_MODELS to a folder with answerai-colbert-small-v1"
    return None


def load_scifact(cache: Path | None) -> SciFact:
    """Encode the dataset, or read its embeddings from an earlier run's `cache` folder."""
    dataset = load_beir(DATA)
    if cache and _is_cached(cache):
        tokens_TD, lengths_N, queries_PD, query_lengths = (np.load(cache / name) for name in _ARRAYS)
        ids, query_ids = (json.loads((cache / name).read_text()) for name in _IDS)
    else:
        ids, texts = [passage.id for passage in dataset.passages], read_queries(DATA / "queries.jsonl")
        query_ids = list(texts)
        tokens_TD, lengths_N, queries_PD, query_lengths = arrays = _encode(dataset, list(texts.values()))
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
            for array, array_name in zip(arrays, _ARRAYS, strict=True):
                np.save(cache / array_name, array)
            for names, ids_name in zip((ids, query_ids), _IDS, strict=True):
                (cache / ids_name).write_text(json.dumps(names))
    if ids != [passage.id for passage in dataset.passages]:
        raise SystemExit(f"{cache}: embeddings of other passages than those in {DATA}; remove the sf_* files there")
    queries = dict(zip(query_ids, np.split(queries_PD, np.cumsum(query_lengths)[:-1]), strict=True))
    collection = Collection(tokens_TD.astype(np.float32), lengths_N, [queries[id_] for id_ in dataset.queries])
    return SciFact(collection, dataset)


def _is_cached(cache: Path) -> bool:
    return all((cache / name).is_file() for name in (*_ARRAYS, *_IDS))


def _encode(dataset: Dataset, queries: list[str]) -> tuple[NDArray[np.float16], ...]:
    from raycol.models.encoder import load_encoder

    encoder = load_encoder(MODEL, device="cpu")
    say(f"encoding {len(dataset.passages)} passages, which takes a while")
    texts = [passage.content for passage in dataset.passages]
    tokens = encoder.encode_document(texts, convert_to_numpy=True, show_progress_bar=False)
    query_tokens = encoder.encode_query(queries, convert_to_numpy=True, show_progress_bar=False)
    return (
        np.concatenate(tokens).astype(np.float16),
        np.array([len(tokens_TD) for tokens_TD in tokens]),
        np.concatenate(query_tokens).astype(np.float32),
        np.array([len(query_QD) for query_QD in query_tokens]),
    )
