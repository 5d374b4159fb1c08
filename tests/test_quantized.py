"""Noise of less than one DN, and the shape of its tails, from simulated pairs of darks (bare NumPy)."""

import numpy as np
import pytest

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
