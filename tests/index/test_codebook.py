import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from raycol.errors import InputError
from raycol.index.codec.codebook import BITS, Codebook, pack, unpack
from raycol.index.codec.nearest import FEW_CENTROIDS, Cells, NearestCentroid
from raycol.index.codec.training import default_centroids, sample_size, train_codebook
from tests.conftest import make_clustered, tries_all, unit


@given(st.sampled_from(BITS), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32))
def test_unpack_inverts_pack(bits: int, tokens: int, eighths: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 2**bits, (tokens, 8 * eighths), dtype=np.uint8)
    packed = pack(levels, bits)
    assert packed.shape == (tokens, eighths * bits)
    assert np.array_equal(unpack(packed, bits), levels)


def test_more_bits_reduce_the_error_and_norms_are_preserved() -> None:
    tokens = np.concatenate(make_clustered(300, 64, seed=1))
    errors = []
    for bits in BITS:
        codebook = train_codebook(tokens, bits=bits, n_centroids=16, seed=0)
        decoded = codebook.decode(codebook.quantise(tokens)[0])
        assert np.allclose(np.linalg.norm(decoded, axis=1), 1, atol=2e-3)
        errors.append(np.linalg.norm(decoded - tokens, axis=1).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < errors[0]


@pytest.mark.parametrize("n_centroids", [8, 1024])
def test_the_codes_of_a_token_do_not_depend_on_the_batch(n_centroids: int) -> None:
    tokens = np.concatenate(make_clustered(300, 32, seed=2, n_centres=500))
    codebook = train_codebook(tokens, bits=4, n_centroids=n_centroids, seed=0)
    together, cosines = codebook.quantise(tokens)
    for position in range(0, 100, 7):
        alone, cosine = codebook.quantise(tokens[position : position + 1])
        for whole, part in zip((*together.arrays.values(), cosines), (*alone.arrays.values(), cosine), strict=True):
            assert np.array_equal(whole[position : position + 1], part)


@pytest.mark.parametrize("n_centroids", [32, pytest.param(1024, marks=pytest.mark.slow)])
def test_training_does_not_depend_on_threads(n_centroids: int) -> None:
    import faiss

    tokens = np.concatenate(make_clustered(400, 32, seed=3))
    made = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            made.append(train_codebook(tokens, bits=4, n_centroids=n_centroids, seed=5))
    first, second = made
    assert np.array_equal(first.centroids_KD, second.centroids_KD)
    assert np.array_equal(first.steps_D, second.steps_D)
    assert np.array_equal(first.lows_D, second.lows_D)
    codes = [codebook.quantise(tokens)[0].arrays.values() for codebook in made]
    assert all(np.array_equal(one, other) for one, other in zip(*codes, strict=True))


@given(st.integers(1, 40), st.integers(0, 100))
def test_exhaustive_search_finds_the_nearest_centroid(n_centroids: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, centroids = unit(rng.standard_normal((50, 8))), unit(rng.standard_normal((n_centroids, 8)))
    codes = NearestCentroid(centroids)(tokens)
    best = (tokens @ centroids.T).max(axis=1)
    assert np.allclose((tokens * centroids[codes]).sum(axis=1), best, atol=1e-6)


@pytest.mark.slow
@given(
    n_centroids=st.integers(1, 300),
    n_tokens=st.integers(1, 70),
    dim=st.integers(1, 17),
    seed=st.integers(0, 2**32 - 1),
)
def test_searching_all_cells_finds_a_centroid_as_near_as_the_nearest(
    n_centroids: int, n_tokens: int, dim: int, seed: int
) -> None:
    """Bytes choose four centroids, which floats compare. A token's code does not depend on the tokens beside it."""
    rng = np.random.default_rng(seed)
    centroids_KD = unit(rng.standard_normal((n_centroids, 8 * dim)))
    centroids_KD[rng.integers(0, n_centroids, n_centroids // 4)] = centroids_KD[0]
    tokens_TD = (rng.standard_normal((n_tokens, 8 * dim)) * rng.uniform(0, 9, (n_tokens, 1))).astype(np.float32)
    cells = Cells(centroids_KD)
    codes_T = cells.nearest(tokens_TD)
    norms_T = np.linalg.norm(tokens_TD, axis=1)
    similarity_TK = tokens_TD @ centroids_KD.T
    found_T = similarity_TK[np.arange(n_tokens), codes_T]
    assert (similarity_TK.max(axis=1) - found_T <= 0.02 * norms_T).all()
    assert np.array_equal(np.concatenate([cells.nearest(tokens_TD[t : t + 1]) for t in range(n_tokens)]), codes_T)


@pytest.mark.parametrize("n_distinct", [1, 2, 5])
def test_cells_of_equal_centroids_are_not_empty(n_distinct: int) -> None:
    """k-means makes more cells than there are distinct centroids."""
    rng = np.random.default_rng(n_distinct)
    distinct = unit(rng.standard_normal((n_distinct, 16)))
    centroids = distinct[rng.integers(0, n_distinct, FEW_CENTROIDS)]
    tokens = unit(rng.standard_normal((500, 16)))
    found = NearestCentroid(centroids)(tokens)
    assert found.max() < FEW_CENTROIDS
    best = (tokens @ distinct.T).max(axis=1)
    assert np.allclose(np.einsum("td,td->t", tokens, centroids[found]), best, atol=1e-6)


@pytest.mark.slow
def test_cells_nearly_always_hold_the_nearest_centroid() -> None:
    tokens = np.concatenate(make_clustered(1000, 32, seed=6, n_centres=2000))
    codebook = train_codebook(tokens, bits=4, n_centroids=2048, seed=0)
    similarity = tokens @ codebook.centroids_KD.T
    codes = codebook.nearest(tokens)
    assert np.mean(codes == similarity.argmax(axis=1)) > 0.9
    assert np.mean(similarity.max(axis=1) - similarity[np.arange(len(tokens)), codes]) < 0.01
    assert len(np.unique(codes)) > 0.8 * 2048


def test_each_token_has_its_own_step_size() -> None:
    """Tokens near their centroid decode far better than tokens far from it; a common step size would equalise them."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((16, 64)))[rng.integers(0, 16, 4000)]
    noise = np.where(rng.random(4000) < 0.5, 0.02, 0.8)[:, None]
    tokens = unit(centres + noise * unit(rng.standard_normal((4000, 64))))
    codebook = train_codebook(tokens, bits=2, n_centroids=16, seed=0)
    _, cosines = codebook.quantise(tokens)
    near = noise[:, 0] < 0.1
    assert np.median(1 - cosines[near]) < 3e-4 < 1e-2 < np.median(1 - cosines[~near])
    assert codebook.error == pytest.approx(np.mean(1 - cosines), rel=0.1)


def test_tokens_of_any_norm_are_quantised() -> None:
    tokens = np.concatenate(make_clustered(100, 32, seed=4)) * 7.5
    codebook = train_codebook(tokens, bits=8, n_centroids=8, seed=0)
    decoded = codebook.decode(codebook.quantise(tokens)[0])
    assert np.allclose(np.linalg.norm(decoded, axis=1), 7.5, rtol=2e-3)


@pytest.mark.sampled
def test_a_sample_of_any_size_encodes_its_own_tokens_well() -> None:
    """Tries every size up to 200 with the profile `long`, otherwise every seventh."""
    tokens = np.concatenate(make_clustered(20, 32, seed=4))
    for n_tokens in range(1, 201, 1 if tries_all() else 7):
        codebook = train_codebook(tokens[:n_tokens], bits=4, n_centroids=default_centroids(n_tokens, n_tokens), seed=0)
        assert mean_cosine(codebook, tokens[:n_tokens]) > 0.98, n_tokens


@pytest.mark.parametrize("n_tokens", [1, 2, 5, 20, 40])
def test_a_codebook_of_few_tokens_encodes_other_tokens(n_tokens: int) -> None:
    tokens = np.concatenate(make_clustered(20, 32, seed=4))
    same = np.repeat(tokens[:1], n_tokens, axis=0)
    for sample in (tokens[:n_tokens], same):
        codebook = train_codebook(sample, bits=8, n_centroids=1, seed=0)
        assert mean_cosine(codebook, tokens) > 0.98
    assert mean_cosine(codebook, same) > 0.999


def mean_cosine(codebook: Codebook, tokens: np.ndarray) -> float:
    codes, cosines = codebook.quantise(tokens)
    decoded = codebook.decode(codes)
    assert np.allclose((unit(decoded) * tokens).sum(axis=1), cosines, atol=1e-4)
    return float(cosines.mean())


@pytest.mark.parametrize(("dim", "bits"), [(32, 3), (32, 0), (30, 4)])
def test_unsupported_dimensions_and_bits_are_refused(dim: int, bits: int) -> None:
    with pytest.raises(InputError, match="expected"):
        train_codebook(np.ones((4, dim), np.float32), bits=bits, n_centroids=1, seed=0)


def test_sizes_follow_plaid() -> None:
    assert sample_size(100) == 100
    assert sample_size(50_000) == 39_192
    assert default_centroids(3_000_000, 2_000_000) == 16_384
    assert default_centroids(5, 5) == 1


def test_codebook_shape() -> None:
    codebook = Codebook(np.zeros((4, 16), np.float32), np.zeros(16, np.float32), np.ones(16, np.float32), 2)
    assert (codebook.n_centroids, codebook.dim) == (4, 16)
