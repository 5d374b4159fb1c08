"""Surfaces, lines and what is left, against bare NumPy."""

import numpy as np
import pytest

from rawkit.errors import CalibrationError
from rawkit.sensor.surface import Surroundings, analyze_lines, fit_surface, lines_and_rest, robust_factors


def test_a_surface_is_recovered_where_pixels_are_left_out():
    y, x = np.mgrid[-1:1:90j, -1:1:131j]
    truth = 3.0 + 2.0 * x - y + 0.5 * x * y + x**2 - 2.0 * y**2
    image, keep = truth.copy(), np.ones(truth.shape, bool)
    image[40:50, 60:70], keep[40:50, 60:70] = 1e6, False
    # Blocks stand for their pixels: exact but for the few blocks that are cut.
    assert np.abs(fit_surface(image, keep=keep) - truth).max() < 2e-3
    assert np.abs(fit_surface(truth) - truth).max() < 1e-10


@pytest.mark.parametrize("relative", [False, True])
def test_lines_and_what_is_left_are_those_of_the_whole_array(relative):
    rng = np.random.default_rng(1)
    shape, blocks = (97, 140), 4
    down, across = rng.uniform(1.0, 2.0, (shape[0], 3)), rng.uniform(1.0, 2.0, (shape[1], 3))
    surface = down @ across.T
    image = surface + rng.normal(0.0, 1.0, shape) + rng.normal(0.0, 1.0, (shape[0], 1))
    bad = np.sort(rng.choice(image.size, 200, replace=False))
    found = analyze_lines(np.repeat(image, 2, axis=1)[:, ::2], down, across, bad, relative=relative, blocks=blocks)
    rest = image / surface - 1.0 if relative else image - surface
    good = np.ones(shape, bool)
    good.ravel()[bad] = False
    mean = rest[good].mean()
    rows = np.array([line[keep].mean() for line, keep in zip(rest, good, strict=True)]) - mean
    columns = np.array([line[keep].mean() for line, keep in zip(rest.T, good.T, strict=True)]) - mean
    left = np.where(good, rest - mean - rows[:, None] - columns, 0.0)
    assert found.mean == pytest.approx(mean, rel=1e-9)
    np.testing.assert_allclose(found.rows, rows, atol=1e-12)
    np.testing.assert_allclose(found.columns, columns, atol=1e-12)
    assert found.squares == pytest.approx((left**2).sum(), rel=1e-9)
    assert found.fourth == pytest.approx((left**4).sum(), rel=1e-9)
    assert found.number == image.size - 200
    edges = [np.linspace(0, length, blocks + 1).astype(int) for length in shape]
    first = left[: edges[0][1], : edges[1][1]]
    assert found.block_means[0, 0] == pytest.approx(first.mean(), rel=1e-9)
    assert found.block_sizes[0, 0] == first.size
    np.testing.assert_allclose(lines_and_rest(rest, bad)[3], left, atol=1e-12)


def test_a_share_of_a_surface_that_is_not_positive_is_refused():
    image = np.ones((40, 50))
    with pytest.raises(CalibrationError, match="below zero"):
        analyze_lines(image, np.linspace(-1.0, 1.0, 40)[:, None], np.ones((50, 1)), np.zeros(0, np.intp), relative=True)


def test_a_pixel_s_excess_is_what_it_has_beyond_its_surroundings():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-1:1:120j, -1:1:160j]
    noise = rng.normal(0.0, 1.0, x.shape)
    image = 100.0 + 5.0 * x * y + 3.0 * rng.normal(0.0, 1.0, (120, 1)) + noise
    image[30, 40] += 50.0
    down, across, bad = robust_factors(image, 2, 6.0)
    around = Surroundings.of(image, down, across)
    assert bad.tolist() == [30 * 160 + 40]
    assert around.far(6.0 * around.sigma).tolist() == bad.tolist()
    assert around.sigma == pytest.approx(1.0, abs=4 * 1.17 / np.sqrt(x.size))  # of a median absolute deviation
    # Medians of 160 and 120 pixels are good to 1.25 / sqrt(n).
    assert around.excess(bad)[0] == pytest.approx(50.0 + noise[30, 40], abs=4 * 1.25 * np.hypot(160**-0.5, 120**-0.5))
