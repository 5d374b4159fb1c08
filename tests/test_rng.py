"""Counter-based random numbers: known answers, exact distributions, independence of tiling."""

import numpy as np
import pytest
from scipy import special, stats

from rawkit.noise import rng

# One failure in a million runs of a correct sampler; the seeds are fixed, so in practice none.
P_MIN = 1e-6


def hexadecimal(words):
    return " ".join(f"{int(w):08x}" for w in words)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, answer):
    assert hexadecimal(rng.philox(*counter, *key)) == answer


def test_normals_agree_with_an_independent_quantile_function():
    """The top bit of a word is the sign, the others are the tail probability."""
    tails = np.concatenate([2.0 ** np.arange(31) - 1, np.linspace(0, 2**31 - 1, 20001)]).astype(np.uint32)
    words = np.concatenate([tails, tails | np.uint32(1 << 31)])
    z, scratch = np.empty(words.size, np.float32), np.empty(words.size, np.float32)
    rng.normals(words, z, scratch, scratch.view(np.int32), words.size)
    expected = special.ndtri((tails.astype(np.float64) + 0.5) / 2.0**32)
    # Single precision of -ln p near 1/2 and of s near 6: a few units of 2^-23.
    np.testing.assert_allclose(z, np.concatenate([expected, -expected]), atol=1e-6)


def test_alias_table_holds_the_poisson_law():
    table = rng.alias_table().view(np.uint32).reshape(-1, rng.ALIAS_COUNTS)
    for row in (0, 1, 7, 40, 95):
        share, alias = (table[row] >> 6) / 2.0**26, table[row] & 63
        mass = share + np.bincount(alias, 1 - share, rng.ALIAS_COUNTS)
        # 64 columns of 2^-26 each, of which a count can be the alias of all
        np.testing.assert_allclose(
            mass / rng.ALIAS_COUNTS, stats.poisson.pmf(np.arange(rng.ALIAS_COUNTS), row / 4), atol=2.0**-26
        )


@pytest.mark.parametrize("mean", [24.0, 24.7, 60.3, 1000.0])
def test_expansion_from_24_electrons_is_the_poisson_law(mean):
    """Exactly, over a grid of normals: 10^7 draws may raise chi^2 by 0.6 at 24 electrons, less above."""
    z = np.linspace(-6.5, 6.5, 2_000_001, dtype=np.float32)
    counts = np.zeros(z.size, np.float32)
    rng.many_electrons(np.full(z.size, mean, np.float32), z, counts, z.size)
    weight = np.exp(-0.5 * z.astype(np.float64) ** 2)
    found = np.bincount(counts.astype(int), weight / weight.sum())
    expected = stats.poisson.pmf(np.arange(found.size), float(np.float32(mean)))
    seen = expected > 1e-8
    # The grid's own error: a step of 6.5e-6 in z at either edge of a count.
    assert (((found - expected) ** 2 / np.maximum(expected, 1e-300))[seen]).sum() < 6e-8 + 1e-9
    axis = np.arange(found.size) - mean
    assert found @ axis == pytest.approx(0, abs=1e-4)
    assert found @ axis**2 == pytest.approx(mean, rel=6e-5)
    assert found @ axis**3 == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("rest", [0.0, 0.001, 0.1, 0.2499])
def test_remainder_of_the_mean_adds_its_own_poisson_count(rest):
    """First word 0 takes column 0 of the alias row of mean 0: no electron; so all counts are the remainder's."""
    n = 1 << 20
    uniform = (np.arange(n, dtype=np.uint64) << np.uint64(12)).astype(np.uint32)
    counts = np.empty(n, np.float32)
    rng.few_electrons(
        np.full(n, rest, np.float32),
        np.zeros(n, np.uint32),
        uniform,
        rng.alias_table(),
        np.empty(n, np.int32),
        counts,
        n,
    )
    found = np.bincount(counts.astype(int), minlength=8) / n
    np.testing.assert_allclose(found, stats.poisson.pmf(np.arange(8), rest), atol=2 / n)


@pytest.mark.parametrize("mean", [0.01, 0.24, 0.3, 1.0, 3.1, 9.99, 17.6, 23.99, 24.0, 30.0, 300.0, 1e4, 1e6])
def test_poisson_counts_follow_the_poisson_distribution(mean):
    counts, _ = rng.fields(np.full((1000, 400), mean), seed=11, frame=int(mean))
    n = counts.size
    assert np.array_equal(counts, np.rint(counts))
    # Bins of at least one code each, with at least 10 expected counts.
    codes = np.unique(np.round(stats.poisson.ppf(np.linspace(1e-4, 1 - 1e-4, 80), mean)))
    edges = np.concatenate([[-1.0], codes, [np.inf]])
    expected = n * np.diff(np.concatenate([[0.0], stats.poisson.cdf(codes, mean), [1.0]]))
    observed = np.histogram(counts, edges + 0.5)[0]
    keep = expected >= 10
    expected = np.append(expected[keep], expected[~keep].sum() + 1e-9)
    observed = np.append(observed[keep], observed[~keep].sum())
    if expected[-1] < 10:
        expected, observed = expected[:-1], observed[:-1]
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi2, expected.size - 1) > P_MIN
    assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / n)
    # var of the sample variance of a Poisson variable: (mean + 2 mean^2) / n
    assert abs(counts.var() - mean) < 5 * np.sqrt((mean + 2 * mean**2) / n)


def test_normals_are_normal_and_independent_of_the_counts():
    counts, normals = rng.fields(np.full((700, 700), 20.0), seed=5)
    n = normals.size
    assert stats.kstest(normals.ravel(), "norm").pvalue > P_MIN
    assert abs(np.corrcoef(counts.ravel(), normals.ravel())[0, 1]) < 5 / np.sqrt(n)


def test_neighbors_frames_streams_and_seeds_are_uncorrelated():
    mean = np.full((512, 512), 40.0)
    _, base = rng.fields(mean, seed=1)
    others = [rng.fields(mean, seed=2)[1], rng.fields(mean, seed=1, frame=1)[1], rng.fields(mean, seed=1, stream=1)[1]]
    shifted = [np.roll(base, shift, axis) for shift in (1, 2) for axis in (0, 1)]
    for other in [*others, *shifted, base.T]:
        off_diagonal = ~np.eye(512, dtype=bool) if other is base.T else slice(None)
        product = (base * other)[off_diagonal]
        assert abs(product.mean()) < 5 / np.sqrt(product.size)


@pytest.mark.parametrize("mean", [0.5, 80.0])
def test_a_crop_has_the_noise_of_the_whole(mean):
    whole = rng.fields(np.full((60, 50), mean), seed=9, frame=3)
    crop = rng.fields(np.full((20, 13), mean), seed=9, frame=3, origin=(17, 31))
    for a, b in zip(whole, crop, strict=True):
        assert np.array_equal(a[17:37, 31:44], b)


def test_means_that_are_not_positive_give_no_electrons():
    counts, _ = rng.fields(np.array([[0.0, -5.0]]), seed=1)
    assert counts.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("mean", [np.nan, np.inf, 1e13])
def test_impossible_means_are_refused(mean):
    with pytest.raises(ValueError, match="expected counts"):
        rng.fields(np.array([[mean]]), seed=1)


@pytest.mark.parametrize("key", [{"seed": -1}, {"seed": 2**32}, {"seed": 1, "frame": -1}])
def test_keys_beyond_32_bits_are_refused(key):
    with pytest.raises(ValueError, match="integer from 0"):
        rng.fields(np.ones((1, 1)), **key)
