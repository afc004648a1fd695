"""Opens saved models with PyLate and encodes texts; run by benchmarks/pylate.py with a Python that has PyLate.

    python pylate_encoder.py FOLDER < REQUEST > ANSWER

REQUEST is JSON, {"queries": [...], "documents": [...]}. FOLDER/pylate-queries.npz and FOLDER/pylate-documents.npz are
written, with the token embeddings of all texts [tokens, dim] and the number of each text's tokens. ANSWER names the
versions.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pylate.models import ColBERT


def main() -> None:
    """Open, encode, write."""
    folder = Path(sys.argv[1])
    texts = json.load(sys.stdin)
    model = ColBERT(str(folder), device="cpu")
    for kind in ("queries", "documents"):
        tokens = model.encode(texts[kind], is_query=kind == "queries", show_progress_bar=False)
        np.savez(folder / f"pylate-{kind}.npz", tokens=np.concatenate(tokens), lengths=[*map(len, tokens)])
    print(", ".join(f"{name} {version(name)}" for name in ("pylate", "sentence-transformers", "torch")))


if __name__ == "__main__":
    main()
