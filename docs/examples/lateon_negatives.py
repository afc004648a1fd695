"""Draw negatives from the scored candidates of LateOn's data, for jobs/configs/lateon-2-fine-tuning.yaml.

    hf download lightonai/embeddings-fine-tuning --repo-type dataset --local-dir fine-tuning
    python docs/examples/lateon_negatives.py 'fine-tuning/scores/fiqa-*.parquet' 'fine-tuning/queries/fiqa-*.parquet' \
        'fine-tuning/documents/fiqa-*.parquet' lateon/fiqa.jsonl --passes 3

A record of the scores has `query_id`, `document_ids` and `scores`, the positive first. As in LightOn's script,
negatives score below `threshold` times the positive (NV-Retriever, arXiv 2407.15831), the first `pool` of them are
kept, and queries with fewer are left out. From these, `negatives` are drawn for each of `passes` copies.
"""

import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import typer


def main(
    scores: str,
    queries: str,
    documents: str,
    out: str,
    passes: int = 1,
    negatives: int = 7,
    pool: int = 50,
    threshold: float = 0.99,
    seed: int = 0,
) -> None:
    """Read Parquet files, given as globs, and write JSON Lines with the columns query, positive and negatives."""
    query_by_id = {row["query_id"]: row["query"] for row in records(queries)}
    document_by_id = {row["document_id"]: row["document"] for row in records(documents)}
    rng = np.random.default_rng(seed)
    n_written, n_left_out = 0, 0
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with Path(out).open("w", encoding="utf-8") as file:
        for row in records(scores):
            (positive, best), *others = zip(row["document_ids"], row["scores"], strict=True)
            candidates = [id_ for id_, score in others if score < threshold * best][:pool]
            if len(candidates) < pool:
                n_left_out += 1
                continue
            for _ in range(passes):
                drawn = rng.choice(candidates, negatives, replace=False).tolist()
                example = {
                    "query": query_by_id[row["query_id"]],
                    "positive": document_by_id[positive],
                    "negatives": [document_by_id[id_] for id_ in drawn],
                }
                file.write(json.dumps(example, ensure_ascii=False) + "\n")
                n_written += 1
    print(f"{n_written:,} examples in {out}; {n_left_out:,} queries left out, with fewer than {pool} negatives")


def records(pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet files, in the order of their names."""
    for path in sorted(glob(pattern)) or [pattern]:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()


if __name__ == "__main__":
    typer.run(main)
