"""Measure the kernels of a search and of a build: nanoseconds of one thread per unit of work.

    python benchmarks/kernels.py
    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,+f16c,+bmi,+bmi2 python benchmarks/kernels.py

The second line compiles the kernels for processors with AVX2 only. Random vectors of 96 and 128 dimensions, 32 query
tokens, 4 bits; the data fit the processor's cache, which those of a search do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from measure import print_table
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from raycol.index.codec.codebook import NORMAL_STEP, Codebook
from raycol.index.codec.level_scores import LevelScores
from raycol.index.kernels.centroids import GROUP, query_bytes, score_centroids
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES, byte_instructions
from raycol.index.search.query import Query

CENTROIDS = 16384
DOCUMENTS, LENGTH = 200, 80
SECONDS = 1.0


def main() -> None:
    """Print a table."""
    codegen = cpu_target.target_context.codegen()
    print(f"compiled for {codegen.magic_tuple()[1]}, bytes are multiplied by {byte_instructions(codegen)}")
    by_dim = [costs(dim) for dim in (96, 128)]
    rows = [[name, *(f"{each[name]:.0f}" for each in by_dim)] for name in by_dim[0]]
    print_table(["ns", "96 dimensions", "128 dimensions"], rows)


def costs(dim: int) -> dict[str, float]:
    """Nanoseconds by unit of work."""
    rng = np.random.default_rng(0)
    codebook = Codebook(
        _unit(rng.standard_normal((CENTROIDS, dim))),
        np.full(dim, -7.5 * 0.1 * NORMAL_STEP[4], dtype=np.float32),
        np.full(dim, 0.1 * NORMAL_STEP[4], dtype=np.float32),
        bits=4,
    )
    n_tokens = DOCUMENTS * LENGTH
    tokens_TD = _unit(codebook.centroids_KD[rng.integers(0, CENTROIDS, n_tokens)] + 0.1 * rng.standard_normal(dim))
    codes_T = codebook.nearest(tokens_TD)
    tokens, _ = codebook.quantise_residuals(tokens_TD, codes_T)
    query = Query.prepare(_unit(rng.standard_normal((LANES, dim))))
    offsets_N, documents_M = np.arange(0, n_tokens + 1, LENGTH), np.arange(DOCUMENTS)

    rows_RD, scales_D = codebook.centroid_bytes
    weights_DL4, offsets_L, shift, _ = query_bytes(query.floats_BDL[0], scales_D)
    scores_RL = np.empty((CENTROIDS, LANES), dtype=np.int16)
    tops_GL = np.empty((CENTROIDS // GROUP, LANES), dtype=np.int16)

    def centroids() -> None:
        score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL)

    none = np.empty(0, dtype=np.uint32)
    codes, *others = tokens.arrays.values()
    addresses = np.array([[array.ctypes.data for array in (offsets_N, codes, none, none, *others)]])
    arguments = query.floats_BDL, LANES, np.array([0, DOCUMENTS]), addresses, Scratch()

    def near_first() -> None:
        LevelScores(codebook, *arguments)(documents_M)

    near = LevelScores(codebook, *arguments)

    def near_again() -> None:
        near(documents_M)

    def exact() -> None:
        codebook.scores(query.floats_BDL, LANES, tokens, offsets_N, documents_M)

    again = _nanoseconds(near_again)
    return {
        "centroid, stage 1": _nanoseconds(centroids) / CENTROIDS,
        "token, stage 4": again / n_tokens,
        "centroid of a token, stage 4": (_nanoseconds(near_first) - again) / len(np.unique(codes_T)),
        "token, stage 5": _nanoseconds(exact) / n_tokens,
        "nearest centroid of a token, in a build": _nanoseconds(lambda: codebook.nearest(tokens_TD)) / n_tokens,
    }


def _nanoseconds(work: Callable[[], object]) -> float:
    """CPU time of the fastest run."""
    work()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.process_time_ns()
        work()
        best = min(best, time.process_time_ns() - started)
    return best


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
