"""Patch principal components on unit noise."""

import numpy as np
import pytest
from scipy.fft import dctn

from rawkit.restore import classical
from rawkit.restore.classical import denoise_unit, patch_edge


def picture(planes, height, width):
    """Soft shading, a sharp edge and a fine texture, alike in all planes; amplitudes in noise sigmas."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    scene = 40 + 6 * np.sin(x / 25) + 8 * (x + y > (height + width) / 2) + 3 * np.sin(x / 1.7) * (y < height / 3)
    return np.stack([scene * (0.8 + 0.4 * p / planes) for p in range(planes)]).astype(np.float32)


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("planes", "size"), [(1, (150, 170)), (3, (120, 131)), (4, (128, 150)), (36, (60, 50))])
def test_error_falls_far_below_the_noise_on_a_picture(planes, size):
    clean = picture(planes, *size)
    error = denoise_unit(clean + noise(clean.shape)) - clean
    assert (error**2).mean() < (0.12 if planes == 36 else 0.08)
    assert abs(error.mean()) < 5 / np.sqrt(error.size)


def test_pure_noise_leaves_almost_nothing_and_keeps_its_mean():
    field = noise((4, 256, 256)) + 7
    out = denoise_unit(field)
    assert out.var() < 0.01
    assert out.mean(dtype=np.float64) == pytest.approx(field.mean(dtype=np.float64), abs=1 / np.sqrt(field.size))


def test_a_picture_without_noise_returns_nearly_unchanged():
    clean = picture(4, 128, 128)
    assert np.sqrt(((denoise_unit(clean) - clean) ** 2).mean()) < 0.2


def test_colors_are_denoised_together():
    """Four planes of one scene help each other: better than each alone."""
    clean = picture(4, 160, 160)
    noisy = clean + noise(clean.shape)
    jointly = ((denoise_unit(noisy) - clean) ** 2).mean()
    alone = np.mean([((denoise_unit(n[None]) - c[None]) ** 2).mean() for n, c in zip(noisy, clean, strict=True)])
    assert jointly < 0.7 * alone


def test_workers_do_not_change_a_bit_and_progress_reaches_the_total(monkeypatch):
    monkeypatch.setattr(classical, "_TILE_BUDGET", 1.0)  # the smallest tiles
    field = noise((4, 180, 260))
    seen = []
    one = denoise_unit(field, workers=1)
    assert np.array_equal(one, denoise_unit(field, workers=3, progress=lambda done, total: seen.append((done, total))))
    assert len(seen) > 1
    assert seen[-1][0] == seen[-1][1]


def test_the_same_input_gives_the_same_bits():
    field = noise((4, 100, 90))
    assert np.array_equal(denoise_unit(field), denoise_unit(field))


def test_sigma_scales_the_problem():
    clean = picture(4, 96, 96)
    noisy = clean + 3 * noise(clean.shape)
    np.testing.assert_allclose(denoise_unit(noisy, sigma=3.0), 3 * denoise_unit(noisy / 3), rtol=1e-5, atol=1e-4)


def test_the_tile_pitch_does_not_show(monkeypatch):
    """A smooth ramp and noise, cut into many tiles: the seams carry no more error than the rest."""
    monkeypatch.setattr(classical, "_TILE_BUDGET", 1.0)  # the smallest tiles
    clean = np.broadcast_to(np.linspace(20, 60, 400, dtype=np.float32), (4, 170, 400))
    error = denoise_unit(clean + noise(clean.shape)) - clean
    from rawkit.restore.tiling import spans

    cuts = [s.stop - s.fall // 2 for s in spans(400, 160, 32)][:-1]
    seam = np.concatenate([error[:, :, cut - 16 : cut + 16].reshape(-1) for cut in cuts])
    # Remaining errors are correlated over patches; the mean square of a few thousand of them is known to about 20 %.
    assert (seam**2).mean() < 1.5 * (error**2).mean() + 1e-4


def test_half_scale_keeps_white_unit_noise():
    small = classical.low_frequencies(noise((4, 256, 256)), (128, 128))
    assert small.var() == pytest.approx(1.0, abs=5 * np.sqrt(2 / small.size))
    neighbors = (small[:, :, 1:] * small[:, :, :-1]).mean()
    assert abs(neighbors) < 5 / np.sqrt(small.size)


def test_low_frequencies_are_replaced_and_high_ones_kept():
    fine, coarse = noise((1, 64, 64), 1), noise((1, 32, 32), 2)
    spectrum = dctn(classical.replace_low_frequencies(fine, coarse), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(spectrum[:, :8, :8], dctn(coarse, axes=(1, 2), norm="ortho")[:, :8, :8], atol=1e-5)
    np.testing.assert_allclose(spectrum[:, 17:, 17:], dctn(fine, axes=(1, 2), norm="ortho")[:, 17:, 17:], atol=1e-5)


def test_principal_components_are_orthonormal_and_strongest_first():
    rng = np.random.default_rng(1)
    samples = (rng.standard_normal((6, 6)) @ rng.standard_normal((6, 5000))).astype(np.float32)
    basis, mean = classical.principal_components(samples)
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-5)
    energy = (basis @ (samples - mean[:, None])).var(axis=1)
    assert (np.diff(energy) <= 1e-3 * energy[:-1]).all()
    np.testing.assert_allclose(energy, np.linalg.eigvalsh(np.cov(samples))[::-1], rtol=1e-3)


def test_components_of_a_degenerate_covariance_are_still_orthonormal():
    constant = np.ones((16, 500), np.float32)
    basis, mean = classical.principal_components(constant)
    assert np.array_equal(basis, np.eye(16, dtype=np.float32))
    assert np.array_equal(mean, np.ones(16, np.float32))


def test_correlated_noise_is_not_taken_for_more_than_it_is():
    """Smoothed noise has little power in fine detail; texture below the white-noise threshold must survive it."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[0:160, 0:170]
    texture = 0.8 * noise((160, 170), 9) * ((x // 34 + y // 32) % 5 == 0)
    clean = picture(3, 160, 170) + texture
    noisy = clean + np.stack([gaussian_filter(plane, 0.8) for plane in noise(clean.shape)])
    errors = {how: ((denoise_unit(noisy, correlated=how) - clean) ** 2).mean() for how in (False, True)}
    assert errors[True] < 0.5 * errors[False]
    assert errors[True] < 0.5 * ((noisy - clean) ** 2).mean()


def test_estimated_component_noise_is_never_above_the_white_model():
    rng = np.random.default_rng(2)
    samples = (rng.standard_normal((20, 6000)) * np.linspace(0.1, 3, 20)[:, None]).astype(np.float32)
    sigma = classical._component_noise(samples, np.eye(20, dtype=np.float32), samples.mean(axis=1))
    # The error of a median of |w| over 3000 normals is 2 %.
    np.testing.assert_allclose(sigma, np.minimum(np.linspace(0.1, 3, 20), 1), rtol=0.1)
    assert sigma.max() <= 1


def test_the_grid_of_xtrans_periods_does_not_show():
    flat = denoise_unit(noise((36, 48, 48)))
    site_means = flat.mean(axis=(1, 2))
    assert site_means.std() < 3 / np.sqrt(48 * 48)


def test_planes_smaller_than_a_patch_come_back():
    tiny = noise((4, 3, 3))
    assert np.array_equal(denoise_unit(tiny), tiny)


def test_patches_hold_about_the_same_count_of_numbers():
    assert [patch_edge(p) for p in (1, 3, 4, 36)] == [10, 5, 5, 2]


def test_misuse_is_explained():
    with pytest.raises(ValueError, match=r"\(P, h, w\)"):
        denoise_unit(np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="sigma"):
        denoise_unit(np.zeros((4, 4, 4), np.float32), sigma=0)


def test_colors_without_any_noise_are_returned():
    """Components of a constant picture have no noise at all: nothing is divided by it."""
    flat = np.full((3, 32, 32), 7.0, np.float32)
    np.testing.assert_allclose(denoise_unit(flat, correlated=True), flat, rtol=1e-6)
