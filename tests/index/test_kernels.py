"""Compares each search kernel with a simple NumPy reference, and with itself on processors of other families.

Shapes: Q query tokens, B blocks of L = LANES query tokens, D dimensions, K centroids, R = K rounded up to a multiple
of GROUP, G groups, P probes, T tokens, N documents, M selected documents.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.index import Document, Index
from raycol.index.codec.codebook import BITS, GAIN_BYTES, RESIDUALS, SCALES, Codebook, unpack
from raycol.index.codec.protocol import CODES, TokenCodes
from raycol.index.format.document import MAX_QUERY_TOKENS
from raycol.index.format.lists import Lists, encode_lists
from raycol.index.kernels.candidates import ESTIMATE_BITS, best_estimates, mark_codes, score_by_centroids, visit_lists
from raycol.index.kernels.centroids import (
    GROUP,
    query_bytes,
    score_bytes,
    score_centroids,
    score_probes,
    top_centroids,
)
from raycol.index.kernels.jit import kernel
from raycol.index.kernels.lists import invalid_list
from raycol.index.kernels.maxsim import GAINS, SHORT, score_documents
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES, MAX_PAIR
from raycol.index.search.probes import find_probes, score_all, score_some
from raycol.index.search.query import Query
from tests.conftest import PROJECT, make_clustered, unit
from tests.index.test_search import make_queries

DIMS = st.integers(1, 17).map(lambda eights: 8 * eights)
QUERY_TOKENS = st.integers(1, 70)
SEEDS = st.integers(0, 2**32 - 1)


def rounded_up(n_centroids: int) -> int:
    return -(-n_centroids // GROUP) * GROUP


def addresses_of(partitions: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    return np.array([[array.ctypes.data for array in arrays] for arrays in partitions])


def addresses_of_lists(groups: list[Lists]) -> np.ndarray:
    return np.array([(offsets_K.ctypes.data, lists.ctypes.data, offsets_K.itemsize) for offsets_K, lists in groups])


def in_two_partitions(
    offsets_N: np.ndarray, arrays: list[np.ndarray], cut: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """The first ordinals of two partitions, less an empty one, and their arrays, codes first."""
    starts = np.array(sorted({0, cut, len(offsets_N) - 1}))
    partitions = []
    for start, stop in pairwise(starts):
        codes_T, *others = (array[offsets_N[start] : offsets_N[stop]].copy() for array in arrays)
        partitions.append((offsets_N[start : stop + 1] - offsets_N[start], codes_T, *others))
    return starts, partitions


def tops_of(scores_RL: np.ndarray) -> np.ndarray:
    return scores_RL.reshape(-1, GROUP, LANES).max(axis=1)


def make_codebook(rng: np.random.Generator, n_centroids: int, dim: int, bits: int = 4) -> Codebook:
    steps_D = (rng.uniform(0.1, 0.5, dim) / 2**bits).astype(np.float32)
    lows_D = (-steps_D * 2 ** (bits - 1) + rng.uniform(-0.02, 0.02, dim)).astype(np.float32)
    return Codebook(unit(rng.standard_normal((n_centroids, dim))), lows_D, steps_D, bits)


def centroid_scores(rows_RD: np.ndarray, *query: Any) -> tuple[np.ndarray, np.ndarray]:
    scores_RL = np.empty((len(rows_RD), LANES), dtype=np.int16)
    tops_GL = np.empty((len(rows_RD) // GROUP, LANES), dtype=np.int16)
    score_centroids(rows_RD, *query, scores_RL, tops_GL)
    return scores_RL, tops_GL


@given(dim=DIMS, n_groups=st.integers(1, 4), extreme=st.booleans(), seed=SEEDS)
def test_centroid_scores_are_integer_products(dim: int, n_groups: int, extreme: bool, seed: int) -> None:
    """`extreme` uses only the smallest and largest bytes, whose products come closest to overflowing."""
    rng = np.random.default_rng(seed)
    rows_RD = (
        rng.choice([0, 255], (n_groups * GROUP, dim)) if extreme else rng.integers(0, 256, (n_groups * GROUP, dim))
    )
    weights_DL = rng.integers(-64, 65, (dim, LANES))
    if extreme:
        pairs = np.array([(127, 1), (64, 64), (127, -127), (-127, -1), (-64, -64)])
        assert pairs.clip(0).sum(axis=1).max() == -pairs.clip(None, 0).sum(axis=1).min() == MAX_PAIR
        weights_DL = rng.choice(pairs, (dim // 2, LANES)).transpose(0, 2, 1).reshape(dim, LANES)
        rows_RD[0], weights_DL[:, 0] = 255, 64
    products_RL = (rows_RD - 128) @ weights_DL
    shift = 0
    while np.abs(products_RL >> shift).max() > 32767:
        shift += 1
    scores_RL, tops_GL = centroid_scores(
        rows_RD.astype(np.uint8),
        np.ascontiguousarray(weights_DL.astype(np.int8).reshape(dim // 4, 4, LANES).transpose(0, 2, 1)),
        128 * weights_DL.sum(axis=0, dtype=np.int32),
        shift,
    )
    assert scores_RL.dtype == tops_GL.dtype == np.int16
    assert np.array_equal(scores_RL, products_RL >> shift)
    assert np.array_equal(tops_GL, tops_of(products_RL >> shift))


@given(
    dim=DIMS, n_tokens=QUERY_TOKENS, n_centroids=st.integers(1, 150), size=st.sampled_from([1e-9, 1, 9000]), seed=SEEDS
)
def test_integer_scores_approximate_dot_products(
    dim: int, n_tokens: int, n_centroids: int, size: float, seed: int
) -> None:
    """Tokens of one block may have different norms; padding lanes and padding rows score 0."""
    rng = np.random.default_rng(seed)
    codebook = make_codebook(rng, n_centroids, dim)
    query_QD = unit(rng.standard_normal((n_tokens, dim))) * rng.uniform(0.1, 3, (n_tokens, 1)).astype(np.float32)
    query_QD *= np.float32(size)
    longest = np.linalg.norm(query_QD, axis=1).max()
    query = Query.prepare(query_QD)
    assert len(query.floats_BDL) == -(-n_tokens // LANES)
    for block_DL, first in zip(query.floats_BDL, range(0, n_tokens, LANES), strict=True):
        weights_DL4, offsets_L, shift, steps_L = query_bytes(block_DL, codebook.centroid_bytes.scales_D)
        scores_RL, tops_GL = centroid_scores(codebook.centroid_bytes.rows_RD, weights_DL4, offsets_L, shift)
        assert np.array_equal(tops_GL, tops_of(scores_RL))
        products_KQ = codebook.centroids_KD @ query_QD[first : first + LANES].T
        n_lanes = products_KQ.shape[1]
        approximate_KQ = (scores_RL * steps_L)[:n_centroids, :n_lanes]
        assert np.abs(approximate_KQ - products_KQ).max() < 0.03 * longest
        by_sign_2DL = np.stack([weights_DL4.clip(0), -weights_DL4.clip(None, 0)]).astype(int)
        assert (by_sign_2DL[..., ::2] + by_sign_2DL[..., 1::2]).max() <= MAX_PAIR
        assert not scores_RL[n_centroids:].any()
        assert not scores_RL[:, n_lanes:].any()


@given(n_groups=st.integers(1, 3), spread=st.sampled_from([1, 30, 1000, 32767]), seed=SEEDS)
def test_byte_scores_measure_the_distance_below_the_best_score(n_groups: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_RL = rng.integers(-spread - 1, spread + 1, (n_groups * GROUP, LANES)).astype(np.int16)
    units_L = (rng.uniform(0.2, 5, LANES) * 255 / spread).astype(np.float32)
    bytes_RL = np.empty(scores_RL.shape, dtype=np.uint8)
    best_L = scores_RL.max(axis=0).astype(np.float32)
    score_bytes(scores_RL, best_L, units_L, bytes_RL)
    below_RL = np.minimum((best_L - scores_RL.astype(np.float32)) * units_L, np.float32(255))
    assert np.array_equal(bytes_RL, np.floor(np.float32(255.5) - below_RL))
    assert (bytes_RL.max(axis=0) == 255).all()
    assert (bytes_RL[below_RL == 255] == 0).all()


@given(
    n_centroids=st.integers(1, 300), spread=st.sampled_from([0, 2, 20, 32000]), slope=st.integers(-2, 2),
    padding=st.sampled_from([-32768, 0, 32767]), seed=SEEDS, data=st.data(),
)  # fmt: skip
def test_top_centroids_match_a_stable_sort(
    n_centroids: int, spread: int, slope: int, padding: int, seed: int, data: st.DataObject
) -> None:
    """Small spreads make ties, slopes make whole groups better than earlier ones; padding rows are never returned."""
    n_probe, n_lanes = data.draw(st.integers(1, n_centroids)), data.draw(st.integers(1, LANES))
    rng = np.random.default_rng(seed)
    scores_RL = np.full((rounded_up(n_centroids), LANES), padding, dtype=np.int16)
    scores_RL[:n_centroids] = rng.integers(-spread, spread + 1, (n_centroids, LANES))
    scores_RL[:n_centroids] += slope * (np.arange(n_centroids, dtype=np.int16) // GROUP)[:, None]
    probes_LP = top_centroids(scores_RL, tops_of(scores_RL), n_lanes, n_centroids, n_probe)
    expected_KL = np.argsort(-scores_RL[:n_centroids].astype(int), axis=0, kind="stable")
    assert np.array_equal(probes_LP, expected_KL[:n_probe, :n_lanes].T)


@given(n_centroids=st.integers(1, 200), subtract_last=st.booleans(), seed=SEEDS, data=st.data())
def test_probe_scores_are_relative_to_the_last_probe(
    n_centroids: int, subtract_last: bool, seed: int, data: st.DataObject
) -> None:
    n_probe, n_lanes = data.draw(st.integers(1, n_centroids)), data.draw(st.integers(1, LANES))
    rng = np.random.default_rng(seed)
    scores_RL = rng.integers(-300, 300, (rounded_up(n_centroids), LANES)).astype(np.int16)
    best_L, units_L = scores_RL.max(axis=0).astype(np.float32), rng.uniform(0.1, 2, LANES).astype(np.float32)
    bytes_RL = np.empty(scores_RL.shape, dtype=np.uint8)
    score_bytes(scores_RL, best_L, units_L, bytes_RL)
    best_first_KL = np.argsort(-scores_RL[:n_centroids].astype(int), axis=0)
    probes_LP = np.ascontiguousarray(best_first_KL[:n_probe, :n_lanes].T.astype(np.int32))
    expected = [[int(bytes_RL[probe, lane]) for probe in probes_P] for lane, probes_P in enumerate(probes_LP)]
    if subtract_last:
        expected = [[byte - lane_bytes[-1] for byte in lane_bytes] for lane_bytes in expected]
    assert score_probes(scores_RL, best_L, units_L, probes_LP, subtract_last).tolist() == expected


@pytest.mark.slow
@given(
    n_documents=st.integers(1, 60), n_centroids=st.integers(1, 40), n_tokens=QUERY_TOKENS,
    largest=st.sampled_from([1, 3, 255]), seed=SEEDS, data=st.data(),
)  # fmt: skip
def test_estimates_sum_the_best_visited_centroid_of_each_query_token(
    n_documents: int, n_centroids: int, n_tokens: int, largest: int, seed: int, data: st.DataObject
) -> None:
    """Over several blocks and two partitions, as in `search`; with a `largest` of 1 nearly all estimates tie."""
    rng = np.random.default_rng(seed)
    n_probe = data.draw(st.integers(1, n_centroids))
    probes_QP = np.array([rng.permutation(n_centroids)[:n_probe] for _ in range(n_tokens)], dtype=np.int32)
    above_QP = -np.sort(-rng.integers(0, largest + 1, (n_tokens, n_probe)), axis=1).astype(np.int32)
    documents = [rng.integers(0, n_centroids, rng.integers(1, 9)) for _ in range(n_documents)]
    cut = data.draw(st.integers(0, n_documents))
    starts = np.array(sorted({0, cut, n_documents}))
    offset = data.draw(st.sampled_from([np.uint16, np.uint32]))
    lists = [inverted_lists(documents[start:stop], n_centroids, offset) for start, stop in pairwise(starts)]
    addresses = addresses_of_lists(lists)
    state_N = np.zeros(n_documents, dtype=np.uint32)
    for first in range(0, n_tokens, LANES):
        block = slice(first, first + LANES)
        visit_lists(probes_QP[block], above_QP[block], first, starts, addresses, state_N)

    expected = {}
    for ordinal, codes in enumerate(documents):
        expected[ordinal] = 0
        for probes_P, above_P in zip(probes_QP, above_QP, strict=True):
            expected[ordinal] += max(
                [above for probe, above in zip(probes_P, above_P, strict=True) if probe in codes] or [0]
            )
    assert (state_N & (2**ESTIMATE_BITS - 1)).tolist() == list(expected.values())

    allowed_N = rng.random(n_documents) < data.draw(st.sampled_from([0.1, 0.5, 1]))
    n = data.draw(st.integers(1, n_documents + 5))
    order = sorted(np.flatnonzero(allowed_N).tolist(), key=lambda ordinal: (-expected[ordinal], ordinal))
    assert best_estimates(state_N, allowed_N, n, 255 * n_tokens).tolist() == sorted(order[:n])


@given(dim=DIMS, n_tokens=QUERY_TOKENS, n_centroids=st.integers(1, 300), share=st.floats(0, 1), seed=SEEDS)
def test_scoring_some_centroids_equals_scoring_all(
    dim: int, n_tokens: int, n_centroids: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook = make_codebook(rng, n_centroids, dim)
    query = Query.prepare(rng.standard_normal((n_tokens, dim)).astype(np.float32))
    scratch = Scratch()
    n_rows = len(codebook.centroid_bytes.rows_RD)
    all_BRL = np.empty((len(query.floats_BDL), n_rows, LANES), dtype=np.uint8)
    probes = score_all(query, codebook, min(3, n_centroids), all_BRL, scratch)
    again = find_probes(query, codebook, min(3, n_centroids))
    assert all(np.array_equal(*pair) for pair in zip(probes.centroids, again.centroids, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(probes.above, again.above, strict=True))
    codes_C = np.flatnonzero(rng.random(n_centroids) < share)
    some_BRL = np.full_like(all_BRL, 7)
    score_some(query, codebook, codes_C, again, some_BRL)
    others_R = np.setdiff1d(np.arange(all_BRL.shape[1]), codes_C)
    assert np.array_equal(some_BRL[:, codes_C], all_BRL[:, codes_C])
    assert (some_BRL[:, others_R] == 7).all()


@given(
    n_documents=st.integers(1, 500), largest=st.sampled_from([0, 1, 30, 8000]), spread=st.sampled_from([1, 8]),
    allowed=st.sampled_from([0.0, 0.1, 0.9, 1.0]), ascending=st.booleans(), n=st.integers(1, 600), seed=SEEDS,
)  # fmt: skip
def test_best_estimates_match_a_stable_sort(
    n_documents: int, largest: int, spread: int, allowed: float, ascending: bool, n: int, seed: int
) -> None:
    """With `ascending`, each document is better than all before it, so that no block can be skipped."""
    rng = np.random.default_rng(seed)
    estimates_N = (largest * rng.random(n_documents) ** spread).astype(np.uint32)
    if ascending:
        estimates_N.sort()
    allowed_N = rng.random(n_documents) < allowed
    state_N = estimates_N | rng.integers(0, 33, n_documents, dtype=np.uint32) << np.uint32(ESTIMATE_BITS)
    order = np.argsort(-estimates_N.astype(np.int64), kind="stable")
    expected = np.sort(order[allowed_N[order]][:n])
    assert best_estimates(state_N, allowed_N, n, max(1, largest)).tolist() == expected.tolist()


def inverted_lists(
    documents: Sequence[Iterable[int]], n_centroids: int, offset: type = np.uint16
) -> tuple[np.ndarray, np.ndarray]:
    """Lists as docs/index-format.md defines them, written one entry at a time."""
    lists: list[list[int]] = [[] for _ in range(n_centroids)]
    for ordinal, codes in enumerate(documents):
        for code in set(codes):
            lists[code].append(ordinal)
    encoded = [b"".join(gap_bytes(b - a - 1) for a, b in pairwise([-1, *each])) for each in lists]
    offsets_K = np.cumsum([0, *map(len, encoded)]).astype(offset)
    return offsets_K, np.frombuffer(b"".join(encoded), np.uint8)


def gap_bytes(gap: int) -> bytes:
    if gap < 224:
        return bytes([gap])
    if gap < 224 + 30 * 256:
        return bytes([224 + (gap - 224) // 256, (gap - 224) % 256])
    return b"\xfe" + gap.to_bytes(2, "little") if gap < 2**16 else b"\xff" + gap.to_bytes(4, "little")


@pytest.mark.slow
@given(
    gaps=st.lists(
        st.sampled_from([0, 1, 223, 224, 479, 480, 7903, 7904, 65535, 65536, 70_000]), min_size=1, max_size=5
    ),
    n_centroids=st.integers(1, 4),
    again=st.integers(1, 3),
    seed=SEEDS,
)
def test_lists_hold_each_document_once_whatever_the_gap(
    gaps: list[int], n_centroids: int, again: int, seed: int
) -> None:
    """Every document of the list has `again` tokens of its centroid, and those in the gaps have one of another."""
    rng = np.random.default_rng(seed)
    listed = np.cumsum(np.array(gaps) + 1) - 1
    n = int(listed[-1]) + 1
    lengths_N = np.ones(n, np.int64)
    lengths_N[listed] = again
    code = int(rng.integers(n_centroids + 1))
    codes_N = (code + 1 + rng.integers(0, n_centroids, n)) % (n_centroids + 1)
    codes_N[listed] = code
    offsets_K, lists = encode_lists(np.repeat(codes_N, lengths_N).astype(np.uint16), lengths_N, n_centroids + 1)
    expected_K, expected = inverted_lists(codes_N[:, None].tolist(), n_centroids + 1, np.int64)
    assert offsets_K.tolist() == expected_K.tolist()
    assert lists.tobytes() == expected.tobytes()
    assert offsets_K.dtype == (np.uint16 if len(lists) < 2**16 else np.uint32)
    valid = offsets_K.ctypes.data, offsets_K.itemsize, lists.ctypes.data, n_centroids + 1
    assert invalid_list(*valid, n) == -1
    assert invalid_list(*valid, n - 1) == code

    state_N = np.zeros(n, dtype=np.uint32)
    addresses = addresses_of_lists([(offsets_K, lists)])
    probes_LP, above_LP = np.array([[code]], np.int32), np.array([[7]], np.int32)
    visit_lists(probes_LP, above_LP, 0, np.array([0, n]), addresses, state_N)
    assert np.flatnonzero(state_N).tolist() == listed.tolist()


def test_the_longest_query_does_not_overflow_the_state() -> None:
    """Document 0 reaches the largest possible estimate, which must not overflow into the bits of the query token;
    document 1 is in the lists of one lane per block only."""
    lists = inverted_lists([[0], [1]], 2)
    addresses = addresses_of_lists([lists])
    probes_LP, above_LP = np.full((LANES, 2), [0, 1], np.int32), np.full((LANES, 2), [255, 0], np.int32)
    above_LP[7, 1] = 200
    state_N = np.zeros(2, dtype=np.uint32)
    for first in range(0, MAX_QUERY_TOKENS, LANES):
        if first % 2016 == 0:
            state_N &= np.uint32(2**ESTIMATE_BITS - 1)
        visit_lists(probes_LP, above_LP, first % 2016, np.array([0, 2]), addresses, state_N)
    expected = [255 * MAX_QUERY_TOKENS, 200 * MAX_QUERY_TOKENS // LANES]
    assert (state_N & (2**ESTIMATE_BITS - 1)).tolist() == expected
    for n, best in ((1, [0]), (2, [0, 1])):
        assert best_estimates(state_N, np.ones(2, bool), n, 255 * MAX_QUERY_TOKENS).tolist() == best


@pytest.fixture(scope="module")
def byte_tables() -> np.ndarray:
    """Byte scores of three blocks, with more rows than a uint16 code can address."""
    return np.random.default_rng(0).integers(0, 256, (3, 2**16 + GROUP, LANES)).astype(np.uint8)


@given(code=st.sampled_from([np.uint16, np.uint32]), n_tokens=QUERY_TOKENS, n_documents=st.integers(1, 20), seed=SEEDS)
def test_scores_by_centroids_are_maxsim_over_byte_scores(
    byte_tables: np.ndarray, code: type, n_tokens: int, n_documents: int, seed: int
) -> None:
    """Codes reach the limits of their dtypes, to catch sign extension and truncation to 16 bits."""
    rng = np.random.default_rng(seed)
    bytes_BRL = byte_tables[: -(-n_tokens // LANES)].copy()
    bytes_BRL[-1, :, (n_tokens - 1) % LANES + 1 :] = 0
    offsets_N = np.cumsum([0, *rng.integers(1, 9, n_documents)])
    n_rows = 2**16 if code is np.uint16 else bytes_BRL.shape[1]
    codes_T = (n_rows - 1 - rng.integers(0, rng.choice([3, n_rows]), offsets_N[-1])).astype(code)
    documents_M = np.sort(rng.permutation(n_documents)[: rng.integers(0, n_documents + 1)])
    expected = [
        bytes_BRL[:, codes_T[offsets_N[document] : offsets_N[document + 1]]].max(axis=1).sum(dtype=np.int64)
        for document in documents_M
    ]
    starts, partitions = in_two_partitions(offsets_N, [codes_T], int(rng.integers(0, n_documents + 1)))
    scores_M = score_by_centroids(documents_M, bytes_BRL, starts, addresses_of(partitions), codes_T.itemsize)
    assert scores_M.tolist() == expected
    marked_K = np.zeros(n_rows, dtype=bool)
    mark_codes(documents_M, starts, addresses_of(partitions), codes_T.itemsize, marked_K)
    codes = [codes_T[offsets_N[document] : offsets_N[document + 1]] for document in documents_M]
    assert np.flatnonzero(marked_K).tolist() == sorted({int(code) for each in codes for code in each})


@given(
    bits=st.sampled_from(BITS), code=st.sampled_from([np.uint16, np.uint32]), dim=DIMS, n_tokens=QUERY_TOKENS,
    n_documents=st.integers(1, 8), n_centroids=st.integers(1, 30), seed=SEEDS,
)  # fmt: skip
def test_exact_scores_are_maxsim_over_decoded_tokens(
    bits: int, code: type, dim: int, n_tokens: int, n_documents: int, n_centroids: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook = make_codebook(rng, n_centroids, dim, bits)
    query_QD = unit(rng.standard_normal((n_tokens, dim)))
    offsets_N = np.cumsum([0, *rng.integers(1, 12, n_documents)])
    size = int(offsets_N[-1])
    arrays = {
        CODES: rng.integers(0, n_centroids, size).astype(code),
        RESIDUALS: rng.integers(0, 256, (size, dim * bits // 8)).astype(np.uint8),
        GAIN_BYTES: rng.integers(100, 150, size).astype(np.uint8),
        SCALES: rng.uniform(-0.5, 1.5, size).astype(np.float16),
    }
    documents_M = np.sort(rng.permutation(n_documents)[: rng.integers(0, n_documents + 1)])
    query = Query.prepare(query_QD)
    scores_M = score_documents(
        documents_M, query.floats_BDL, n_tokens, codebook.centroids_KD, codebook.lows_D, codebook.steps_D, offsets_N,
        arrays[CODES], arrays[RESIDUALS], arrays[GAIN_BYTES], arrays[SCALES].view(np.uint16), bits,
    )  # fmt: skip
    scores_QT = query_QD @ codebook.decode(TokenCodes(arrays)).T
    expected = [
        scores_QT[:, offsets_N[document] : offsets_N[document + 1]].max(axis=1).sum() for document in documents_M
    ]
    assert scores_M.dtype == np.float32
    assert np.allclose(scores_M, expected, rtol=1e-5, atol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    dim=DIMS,
    bits=st.sampled_from([1, 2, 4]),
    n_tokens=st.integers(1, 4 * LANES),
    long_centroids=st.booleans(),
    seed=SEEDS,
)
def test_near_scores_round_query_tokens_to_bytes_where_they_meet_residuals(
    lengths: list[int], dim: int, bits: int, n_tokens: int, long_centroids: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook = make_codebook(rng, 64, dim, bits)
    if long_centroids:  # hostile, but readable
        codebook = replace(
            codebook, centroids_KD=codebook.centroids_KD * rng.uniform(0, 9000, (64, 1)).astype(np.float32)
        )
    offsets_N = np.concatenate([[0], np.cumsum(lengths)])
    tokens_TD = rng.standard_normal((offsets_N[-1], dim)).astype(np.float32) * rng.uniform(0.1, 10)
    tokens, _ = codebook.quantise(tokens_TD)
    query = Query.prepare(rng.standard_normal((n_tokens, dim)).astype(np.float32))
    starts, partitions = in_two_partitions(
        offsets_N, list(tokens.arrays.values()), int(rng.integers(0, len(lengths) + 1))
    )
    near = codebook.near_scores(query.floats_BDL, n_tokens, starts, addresses_of(partitions), Scratch())
    if near is None:
        assert dim * bits // 8 % 4
        return
    # In two rounds: the second finds some centroids already scored.
    ordinals_N = rng.permutation(len(lengths))
    scores_N = np.empty(len(lengths), dtype=np.float32)
    for some in map(np.sort, np.array_split(ordinals_N, 2)):
        scores_N[some] = near(some)
    weights_QD = query.tokens_QD.astype(np.float64) * codebook.steps_D
    units_Q = np.abs(weights_QD).max(axis=1) / 127
    rounded_QD = np.rint(weights_QD / units_Q[:, None]) * units_Q[:, None]
    arrays = tokens.arrays
    scales_T = arrays[SCALES].astype(np.float32)
    levels_TD = unpack(arrays[RESIDUALS], bits).astype(np.float32)
    residuals_QT = GAINS[arrays[GAIN_BYTES]] * (
        (query.tokens_QD @ codebook.lows_D)[:, None] + rounded_QD @ levels_TD.T
    )
    norms_Q = np.linalg.norm(query.tokens_QD, axis=1).astype(np.float64)[:, None]
    shorts_QD = np.rint(query.tokens_QD / norms_Q * SHORT) * norms_Q / SHORT
    shorts_KD, centroid_unit = codebook.centroid_shorts
    centroids_TD = shorts_KD[tokens.codes_T] * np.float64(centroid_unit)
    scores_QT = scales_T * (shorts_QD @ centroids_TD.T + residuals_QT)
    expected_N = [scores_QT[:, start:stop].max(axis=1).sum() for start, stop in pairwise(offsets_N)]
    size = scales_T.max() * np.linalg.norm(codebook.centroids_KD, axis=1).max() * norms_Q.max()
    assert np.allclose(scores_N, expected_N, rtol=1e-5, atol=2e-6 * size * n_tokens)


SUBPROCESS = """
import json, sys
import numpy as np
from numba.core.registry import cpu_target
from raycol.index import Index
from raycol.index.kernels.vectors import byte_instructions
from tests.index.test_kernels import integers_and_hits

integers, hits = integers_and_hits(Index.open(sys.argv[1]))
np.savez(sys.argv[2], *integers)
print(json.dumps([byte_instructions(cpu_target.target_context.codegen()), hits]))
"""


def integers_and_hits(index: Index) -> tuple[list[np.ndarray], list[list[tuple[str, float]]]]:
    """Outputs of the integer kernels for some queries; hits with few probes, with all centroids, and of `exact`."""
    queries = make_queries(make_clustered(12, index.manifest.dim, seed=2), 12)
    queries = [*queries, np.concatenate(queries[:5])]
    rows_RD, scales_D = index.codebook.centroid_bytes
    wide_RD, wide_DL4 = np.full((GROUP, 2048), 255, np.uint8), np.full((512, LANES, 4), 64, np.int8)
    wide_RD[1::2, 5], wide_DL4[3, ::3, 1] = 2, -6
    wide_offsets_L = 128 * wide_DL4.sum(axis=(0, 2), dtype=np.int32)
    integers = list(centroid_scores(wide_RD, wide_DL4, wide_offsets_L, 12))
    for query in queries:
        prepared = Query.prepare(query)
        for block_DL in prepared.floats_BDL:
            weights_DL4, offsets_L, shift, steps_L = query_bytes(block_DL, scales_D)
            scores_RL, tops_GL = centroid_scores(rows_RD, weights_DL4, offsets_L, shift)
            units_L = (steps_L * 200).astype(np.float32)
            bytes_RL = np.empty(scores_RL.shape, dtype=np.uint8)
            score_bytes(scores_RL, tops_GL.max(axis=0).astype(np.float32), units_L, bytes_RL)
            integers += [weights_DL4, scores_RL, tops_GL, bytes_RL]
    results = [
        *index.search(queries, 4, n_probe=4, n_rescore=4),
        *index.search(queries, 4, n_probe=index.codebook.n_centroids, n_rescore=4),
        *index.exact(queries, 4),
    ]
    return integers, [[(hit.id, hit.score) for hit in hits] for hits in results]


def other_processor(instructions: str) -> dict[str, str]:
    """Settings of numba for this processor without what it has beyond some instructions that multiply bytes."""
    if instructions == "none":
        return {"NUMBA_CPU_NAME": "generic"}
    host = llvmlite.binding.get_host_cpu_features()
    if not host.get("avx2") or (instructions == "avx-vnni" and not host.get("avxvnni")):
        pytest.skip(f"this processor has no {instructions}")
    lacks = ("avx512", "avx10", "amx") if instructions == "avx-vnni" else ("avx512", "avx10", "amx", "avxvnni")
    features = {name: has and not name.startswith(lacks) for name, has in host.items()}
    return {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(features.items())),
    }


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other processors are x86-64's")
@pytest.mark.parametrize("instructions", ["none", "avx2", pytest.param("avx-vnni", marks=pytest.mark.long)])
def test_results_are_the_same_on_other_processors(tmp_path: Path, instructions: str) -> None:
    """Runs the kernels of two kinds of processors in two processes: all integers and all hits are equal."""
    settings = other_processor(instructions)
    embeddings = make_clustered(400, 32, seed=1)
    documents = (Document(f"d{number}", array) for number, array in enumerate(embeddings))
    index = Index.create(tmp_path / "i", documents, n_centroids=256, partition_tokens=2500)
    integers, results = integers_and_hits(index)
    environment = {**settings, "PYTHONPATH": str(PROJECT)}  # numba keeps separate caches per processor
    run = subprocess.run(
        [sys.executable, "-c", SUBPROCESS, str(tmp_path / "i"), str(tmp_path / "integers.npz")],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    used, others = json.loads(run.stdout)
    assert used == instructions
    with np.load(tmp_path / "integers.npz") as saved:
        assert [saved[name].tobytes() for name in saved.files] == [array.tobytes() for array in integers]
    for hits, other in zip(results, others, strict=True):
        assert [id_ for id_, _ in hits] == [id_ for id_, _ in other]
        assert np.allclose([score for _, score in hits], [score for _, score in other], atol=1e-5)


def test_kernels_compile_without_a_cache() -> None:
    """A function without a source file has no cache folder, as in a read-only container image."""
    names: dict[str, Any] = {}
    exec("def double(x): return 2 * x", names)
    assert kernel()(names["double"])(21) == 42


@pytest.mark.slow
def test_a_change_of_any_module_of_kernels_compiles_them_again(tmp_path: Path) -> None:
    """`mark_codes` reads the columns that another module defines; they are swapped."""
    shutil.copytree(PROJECT / "raycol", tmp_path / "raycol", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "raycol" / "index" / "kernels" / "addresses.py"
    code = (
        "import numpy as np\n"
        "from raycol.index.kernels import addresses, candidates\n"
        "offsets, codes = np.array([0, 2]), np.array([1, 3], np.uint16)\n"
        "row = np.zeros((1, 2), np.int64)\n"
        "row[0, addresses.OFFSETS_AT], row[0, addresses.CODES_AT] = offsets.ctypes.data, codes.ctypes.data\n"
        "marked = np.zeros(4, bool)\n"
        "candidates.mark_codes(np.array([0]), np.array([0, 1]), row, 2, marked)\n"
        "print(np.flatnonzero(marked), sum(candidates.mark_codes.stats.cache_hits.values()))"
    )

    def run() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert [run(), run()] == ["[1 3] 0", "[1 3] 1"]
    module.write_text(module.read_text().replace("OFFSETS_AT, CODES_AT, CODEC", "CODES_AT, OFFSETS_AT, CODEC"))
    assert [run(), run()] == ["[1 3] 0", "[1 3] 1"]


def test_kernels_can_be_read_without_compiling_them() -> None:
    subprocess.run(
        [sys.executable, "-c", "import raycol.index.index"], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True
    )
