"""Write ReasonIR's hq examples as triplets with texts, for jobs/configs/reason-moderncolbert.yaml.

    hf download reasonir/reasonir-data --repo-type dataset --include 'hq/*' --local-dir reasonir
    hf download xlangai/BRIGHT --repo-type dataset --include 'documents/*' --local-dir bright
    python docs/examples/reasonir_pairs.py 'reasonir/hq/*.parquet' 'bright/documents/*.parquet' reasonir-hq.jsonl

A record of hq has lists: `query` is [instruction, text], `pos` has pairs of an instruction and the id of a BRIGHT
document, `neg` pairs of an instruction and a text. As in PyLate's script, the first positive and first negative are
taken, and each instruction is put before its text. Examples whose positive is in no document file are left out.
"""

import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import typer


def main(examples: str, documents: str, out: str) -> None:
    """Read Parquet files, given as globs, and write JSON Lines with the columns query, positive and negative."""
    wanted = {record["pos"][0][1] for record in records(examples, "pos")}
    # A later file replaces a document of the same id.
    texts = {row["id"]: row["content"] for row in records(documents, "id", "content") if row["id"] in wanted}
    n_written, n_missing = 0, 0
    with Path(out).open("w", encoding="utf-8") as file:
        for record in records(examples, "query", "pos", "neg"):
            (instruction, id_), *_ = record["pos"]
            if id_ not in texts:
                n_missing += 1
                continue
            triplet = {
                "query": " ".join(record["query"]),
                "positive": f"{instruction} {texts[id_]}",
                "negative": " ".join(record["neg"][0]),
            }
            file.write(json.dumps(triplet, ensure_ascii=False) + "\n")
            n_written += 1
    print(f"{n_written:,} examples in {out}; {n_missing:,} left out, whose positive is in none of the document files")


def records(pattern: str, *columns: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet files, in the order of their names."""
    for path in sorted(glob(pattern)) or [pattern]:
        for batch in pq.ParquetFile(path).iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


if __name__ == "__main__":
    typer.run(main)
