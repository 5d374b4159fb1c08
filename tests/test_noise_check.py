"""The check tells right parameters from wrong ones, and white noise from colored."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from rawkit.restore.noise_check import noise_check
from rawkit.sensor.params import NoiseParams

K, V, WHITE = 1.5, 40.0, 4000.0


@pytest.fixture(scope="module")
def scene():
    """Clean planes with flat areas of many levels and some texture, and a capture of them."""
    rng = np.random.default_rng(1)
    levels = np.kron(rng.uniform(0, 1, (4, 8, 8)) ** 3 * 2000, np.ones((32, 32)))
    levels[:, :64] += 200 * np.sin(np.arange(256) * 1.3)
    clean = np.maximum(levels, 0)
    noisy = K * rng.poisson(clean / K) + rng.normal(0, V**0.5, clean.shape)
    return clean.astype(np.float32), noisy.astype(np.float32)


def test_right_parameters_pass(scene):
    clean, noisy = scene
    check = noise_check(noisy, clean, NoiseParams(K, V), white=WHITE)
    # 10 % of 4,096 blocks of 16 differences: 1.7 % of the ratio, three of them, half as many in each half
    assert check.ratio == pytest.approx(1.0, abs=0.05)
    assert check.dark == pytest.approx(1.0, abs=0.08)
    assert check.bright == pytest.approx(1.0, abs=0.08)
    assert abs(check.correlation) < 0.03
    assert check.warning is None


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_parameters_off_by_two_are_noticed(scene, factor):
    clean, noisy = scene
    both = noise_check(noisy, clean, NoiseParams(K * factor, V * factor), white=WHITE)
    assert both.ratio == pytest.approx(1 / factor, rel=0.1)
    assert "noise profile" in both.warning
    assert noise_check(noisy, clean, NoiseParams(K * factor, V), white=WHITE).warning


def test_colored_noise_is_noticed(scene):
    clean, noisy = scene
    blurred = np.stack([gaussian_filter(p, 0.6) for p in noisy])
    assert "correlated" in noise_check(blurred, clean, NoiseParams(K, V), white=WHITE).warning


def test_nothing_is_said_without_flat_areas():
    rng = np.random.default_rng(1)
    texture = (500 + 300 * rng.normal(size=(4, 64, 64))).clip(0).astype(np.float32)
    check = noise_check(texture, texture, NoiseParams(K, V), white=WHITE)
    assert check.ratio is None
    assert check.warning is None
