import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from raycol.errors import InputError
from raycol.index.codebook import BITS, Codebook, assign, default_centroids, pack, sample_size, train_codebook, unpack
from tests.conftest import make_clustered, unit


@given(st.sampled_from(BITS), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32))
def test_packing_loses_nothing(bits: int, tokens: int, eighths: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 2**bits, (tokens, 8 * eighths), dtype=np.uint8)
    packed = pack(levels, bits)
    assert packed.shape == (tokens, eighths * bits)
    assert np.array_equal(unpack(packed, bits), levels)


def test_more_bits_are_closer_and_lengths_are_kept() -> None:
    tokens = np.concatenate(make_clustered(300, 64, seed=1))
    errors = []
    for bits in BITS:
        codebook = train_codebook(tokens, bits=bits, n_centroids=16, seed=0)
        decoded = codebook.decode(codebook.quantise(tokens))
        assert np.allclose(np.linalg.norm(decoded, axis=1), 1, atol=2e-3)
        errors.append(np.linalg.norm(decoded - tokens, axis=1).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < errors[0]


def test_a_token_is_coded_alike_whatever_stands_beside_it() -> None:
    tokens = np.concatenate(make_clustered(100, 32, seed=2))
    codebook = train_codebook(tokens, bits=4, n_centroids=8, seed=0)
    together, alone = codebook.quantise(tokens), codebook.quantise(tokens[7:8])
    for whole, part in zip(together, alone, strict=True):
        assert np.array_equal(whole[7:8], part)


def test_training_does_not_depend_on_threads() -> None:
    import faiss

    tokens = np.concatenate(make_clustered(400, 32, seed=3))
    made = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            made.append(train_codebook(tokens, bits=4, n_centroids=32, seed=5))
    first, second = made
    assert np.array_equal(first.centroids_KD, second.centroids_KD)
    assert np.array_equal(first.steps_D, second.steps_D)
    assert np.array_equal(first.lows_D, second.lows_D)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 100))
def test_assignment_is_the_nearest_centroid(n_centroids: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, centroids = unit(rng.standard_normal((50, 8))), unit(rng.standard_normal((n_centroids, 8)))
    expected = [int(np.argmax([token @ centroid for centroid in centroids])) for token in tokens]
    best = (tokens @ centroids.T).max(axis=1)
    assert np.allclose((tokens * centroids[assign(tokens, centroids)]).sum(axis=1), best, atol=1e-6)
    assert np.mean(assign(tokens, centroids) == expected) > 0.9


def test_tokens_need_not_be_of_unit_length() -> None:
    tokens = np.concatenate(make_clustered(100, 32, seed=4)) * 7.5
    codebook = train_codebook(tokens, bits=8, n_centroids=8, seed=0)
    decoded = codebook.decode(codebook.quantise(tokens))
    assert np.allclose(np.linalg.norm(decoded, axis=1), 7.5, rtol=2e-3)


@pytest.mark.parametrize(("dim", "bits"), [(32, 3), (32, 0), (30, 4)])
def test_impossible_codecs_are_refused(dim: int, bits: int) -> None:
    with pytest.raises(InputError, match="expected"):
        train_codebook(np.ones((4, dim), np.float32), bits=bits, n_centroids=1, seed=0)


def test_sizes_follow_plaid() -> None:
    assert sample_size(100) == 100
    assert sample_size(50_000) == 39_192
    assert default_centroids(3_000_000, 2_000_000) == 16_384
    assert default_centroids(5, 5) == 1


def test_a_codebook_says_its_shape() -> None:
    codebook = Codebook(np.zeros((4, 16), np.float32), np.zeros(16, np.float32), np.ones(16, np.float32), 2)
    assert (codebook.n_centroids, codebook.dim) == (4, 16)
