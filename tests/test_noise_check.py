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


def test_noise_that_was_left_in_is_noticed(scene):
    """A profile with too small numbers leaves noise everywhere, so the denoised picture has no flat area at all."""
    _, noisy = scene
    check = noise_check(noisy, noisy, NoiseParams(K / 2, V / 2), white=WHITE)
    # 400 blocks of 16 differences; the unflat ones among them add a little
    assert check.ratio == pytest.approx(2.0, rel=0.1)
    assert check.warning
    assert check.correlation is None


def test_nothing_is_said_about_texture():
    """Detail of all sizes whose contrast changes from place to place, as foliage has, and noise below it."""
    rng = np.random.default_rng(1)
    texture = sum(2**s * gaussian_filter(rng.normal(size=(4, 128, 128)), (0, s, s)) for s in (0.5, 1, 2, 4))
    contrast = np.exp(gaussian_filter(rng.normal(size=(4, 128, 128)), (0, 6, 6)) * 12)
    clean = (800 + 80 * contrast * texture).clip(0)
    noisy = (K * rng.poisson(clean / K) + rng.normal(0, V**0.5, clean.shape)).astype(np.float32)
    check = noise_check(noisy, clean.astype(np.float32), NoiseParams(K, V), white=WHITE)
    assert check.ratio is None
    assert check.warning is None


def test_a_picture_of_one_value_is_no_reason_to_stumble():
    flat = np.zeros((4, 64, 64), np.float32)
    check = noise_check(flat, flat, NoiseParams(K, V), white=WHITE)
    assert check.ratio == 0.0
    assert check.correlation is None
