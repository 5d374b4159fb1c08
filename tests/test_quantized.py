"""Noise of less than one DN, and the shape of its tails, from simulated pairs of darks (bare NumPy)."""

import numpy as np
import pytest
from scipy.stats import tukeylambda

from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.dark import fit_darks
from rawkit.sensor.frames import pair_statistics
from rawkit.sensor.quantized import fit_quantized, fit_tails

N = 40_000


def joint_histogram(sigma, fraction, spread, seed=1):
    rng = np.random.default_rng(seed)
    offset = 8 + fraction + spread * rng.standard_normal(N)
    a, b = (np.rint(offset + sigma * rng.standard_normal(N)).astype(int).clip(0, 23) for _ in range(2))
    counts = np.zeros((24, 24), np.int64)
    np.add.at(counts, (a, b), 1)
    return counts


@pytest.mark.parametrize("sigma", [0.24, 0.3])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_read_noise_below_a_dn_within_5_percent_or_not_identifiable(sigma, fraction):
    found = fit_quantized(joint_histogram(sigma, fraction, 0.0))
    assert not found.identifiable or abs(found.read_noise / sigma - 1) < 0.05
    assert found.identifiable or (sigma, fraction) == (0.24, 0.5)  # 3e-5 of the pixels reach a third code


def test_spread_offsets_do_not_count_as_noise():
    found = fit_quantized(joint_histogram(0.3, 0.0, 0.5))
    assert found.identifiable
    assert abs(found.read_noise / 0.3 - 1) < 0.05


@pytest.mark.parametrize("law", [-0.2, 0.3])
def test_tukey_lambda_is_found_through_quantization(law):
    rng = np.random.default_rng(2)

    def draw():
        p = rng.random(5 * N)
        return np.rint(100.3 + 1.5 * (p**law - (1 - p) ** law) / law)

    difference = (draw() - draw()).astype(int)
    tails = fit_tails(np.bincount(np.clip(difference + 4096, 0, 8192), minlength=8193))
    assert abs(tails.tukey_lambda - law) < 4 * tails.tukey_lambda_se
    assert tails.tukey_lambda_se < 0.02
    assert tails.tukey_scale == pytest.approx(1.5, rel=0.02)
    assert tails.log_likelihood_gain > 100


@pytest.mark.parametrize("law", [-0.2, -0.1, 0.14])
def test_heavy_tails_under_row_noise_leave_variance_and_shape_as_they_are(law):
    """Row noise of 0.3 read noise makes a law look more Gaussian, and leaving out far pixels makes it narrower."""
    rng, shape, sigma, count = np.random.default_rng(3), (400, 500), 4.0, 4
    rows = 0.3 * sigma * rng.standard_normal((2 * count, shape[0], 1))

    def frame(offsets):
        p = rng.random(shape)
        noise = sigma * (p**law - (1 - p) ** law) / law / tukeylambda.std(law)
        stored = np.round(512 + noise + offsets).clip(0, 16383).astype(np.uint16)
        return RawImage(raster=stored, cfa=CFA.mono(), black=BlackLevel.constant(512.0), white_level=16383.0)

    pairs = [pair_statistics(frame(rows[2 * k]), frame(rows[2 * k + 1]), dark=True) for k in range(count)]
    found = fit_darks(pairs)
    tails = found.tails[0]
    # Stated errors hold to a quarter: what rows share counts as independent in them.
    assert abs(tails.tukey_lambda - law) < 4 * 1.25 * tails.tukey_lambda_se
    assert tails.tukey_scale * tukeylambda.std(law) == pytest.approx(sigma, rel=0.01)
    realized = np.mean([(rows[2 * k] - rows[2 * k + 1]).var(ddof=1) / 2 for k in range(count)])
    # 8e5 differences of which the trimmed ones' share is known to 0.3 %; without it 6 % are missing at lambda = -0.2.
    assert found.read_var[0] == pytest.approx(sigma**2 + realized + 1 / 12, rel=0.012)
