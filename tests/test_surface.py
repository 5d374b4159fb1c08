"""A known surface is recovered."""

import numpy as np

from rawkit.sensor.surface import fit_surface


def test_a_surface_is_recovered_where_pixels_are_left_out():
    y, x = np.mgrid[-1:1:90j, -1:1:131j]
    truth = 3.0 + 2.0 * x - y + 0.5 * x * y + x**2 - 2.0 * y**2
    image, keep = truth.copy(), np.ones(truth.shape, bool)
    image[40:50, 60:70], keep[40:50, 60:70] = 1e6, False
    # Blocks stand for their pixels: exact but for the few blocks that are cut.
    assert np.abs(fit_surface(image, keep=keep) - truth).max() < 2e-3
    assert np.abs(fit_surface(truth) - truth).max() < 1e-10
