"""Fixed pattern and dark shading against the truth."""

import numpy as np
import pytest
from stacks import darks, pattern

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.dark_shading import fit_dark_shading, shrink_fixed_pattern
from rawkit.sensor.pixel_moments import PixelMoments


def test_the_shrunk_pattern_is_nearer_to_the_truth_and_has_its_variance():
    rng = np.random.default_rng(11)
    truth = pattern(rng, column=0.15, pixel=0.2)
    truth[50, 60] += 80.0
    stack = PixelMoments.of(darks(rng, truth, count=16, sigma=3.0))
    found = shrink_fixed_pattern(stack)
    assert found.pixel_factor == pytest.approx(0.04 / (0.04 + 9.083 / 16), rel=0.15)  # 76800 pixels: 5 %
    error, plain = found.pattern - 200 - truth, stack.mean - 200 - truth
    assert error.std() < 0.3 * plain.std()
    assert found.pattern[50, 60] - 200 == pytest.approx(truth[50, 60], abs=4 * 3.0 / 4)
    assert found.row_factor < 0.5
    assert found.column_factor > 0.5


def test_dark_shading_is_split_into_slope_offset_and_black_level_error():
    rng = np.random.default_rng(12)
    cfa, shape = CFA.bayer("RGGB"), (80, 120)
    y, x = np.mgrid[-1:1:80j, -1:1:120j]
    laws = {"low": (0.002 * x, 0.3 * y), "high": (0.0005 * (x**2 - y), -0.2 * x)}
    black = {100: -1.0, 200: 0.4, 400: 2.0, 800: -0.6, 1600: 0.1, 3200: 1.5}
    phase = np.array([[0.0, 0.2], [0.4, -0.6]])
    darks_of, noise = {}, {}
    for iso, level in black.items():
        slope, offset = laws["low" if iso < 800 else "high"]
        sigma = 0.01 * np.sqrt(iso)
        clean = slope * iso + offset + level + np.tile(phase, (40, 60))
        darks_of[iso], noise[iso] = clean + sigma * rng.standard_normal(shape), sigma**2
    shading = fit_dark_shading(darks_of, cfa=cfa, gain_switches=(800,), mean_var=noise, smooth=2)
    assert [s.isos for s in shading.segments] == [(100, 200, 400), (800, 1600, 3200)]
    for segment, (slope, offset) in zip(shading.segments, laws.values(), strict=True):
        # A quadratic surface over 9600 pixels: the error of one pixel of it is at most 6 / sqrt(9600) of a pixel's.
        assert np.abs(segment.slope - (slope - slope.mean())).max() < segment.slope_se * 4 * 6 / 98
        assert np.abs(segment.offset - (offset - offset.mean())).max() < segment.offset_se * 4 * 6 / 98
        assert segment.residual < 0.1
    for iso, level in black.items():
        slope, offset = laws["low" if iso < 800 else "high"]
        expected = level + phase + (slope * iso + offset).mean()
        assert np.abs(shading.black_level_error[iso] - expected).max() < 0.05 + 4 * 0.01 * np.sqrt(iso / 2400)
    middle = fit_dark_shading({i: d for i, d in darks_of.items() if i != 1600}, cfa=cfa, gain_switches=(800,)).at(1600)
    assert (middle - middle.mean() - darks_of[1600] + darks_of[1600].mean()).std() < 1.0
    with pytest.raises(CalibrationError, match="outside the measured"):
        shading.at(600)
