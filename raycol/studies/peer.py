"""Run an engine in a process of its own: in the peers' Python, or raycol with a given number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raycol.errors import RaycolError
from raycol.studies.embeddings import Embeddings

_SCRIPT = Path(__file__).parent / "peers" / "engine.py"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


def run_peer(
    engine: str, python: Path | None, embeddings: Embeddings, settings: Mapping[str, Any], threads: int
) -> dict[str, Any]:
    """Build an engine's index of a collection's embeddings, search it, and return what `peers/engine.py` prints.

    Args:
        engine: a function of `peers/engine.py`.
        python: an interpreter that has it; None for this one.
        embeddings: of the collection.
        settings: of the engine.
        threads: of numerical libraries.

    Raises:
        RaycolError: the process failed; with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="raycol-study-") as folder:
        _export(embeddings, Path(folder))
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        if python is None:
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [str(python or sys.executable), str(_SCRIPT), engine, folder, json.dumps(settings)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            lines = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise RaycolError(f"{engine} in {command[0]} failed with exit code {done.returncode}: {lines}")
        answer: dict[str, Any] = json.loads((Path(folder) / "answer.json").read_text())
    return answer


def _export(embeddings: Embeddings, folder: Path) -> None:
    """Write a collection's embeddings as one array of tokens and the number of each text's tokens."""
    for name, texts in (("documents", embeddings.documents), ("queries", embeddings.queries)):
        np.save(folder / f"{name}.npy", np.concatenate([tokens_TD for tokens_TD, _ in texts.blocks]))
        np.save(folder / f"{name}-lengths.npy", texts.lengths)
