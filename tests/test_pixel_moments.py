"""Streamed moments against those of the whole stack in memory."""

import numpy as np
import pytest

from rawkit.errors import CalibrationError
from rawkit.sensor.pixel_moments import PixelAccumulator, PixelMoments


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("period", [(1, 1), (2, 2)])
def test_streamed_moments_equal_those_of_the_whole_stack(dtype, period):
    rng = np.random.default_rng(1)
    stack = rng.integers(0, 256, (5, 301, 17)).astype(dtype)
    found = PixelMoments.of(stack, period=period)
    whole = stack.astype(np.float64)
    rows, cols = period
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, whole.var(axis=0, ddof=1), rtol=1e-6, atol=1e-9)
    for r in range(rows):
        for c in range(cols):
            part = whole[:, r::rows, c::cols]
            plane = found.plane(r, c, period)
            np.testing.assert_allclose(plane.frame_means.ravel(), part.mean(axis=(1, 2)))
            assert plane.mean.shape == part.shape[1:]
    np.testing.assert_allclose(found.row_var[:, 0], whole[:, :, ::cols].mean(axis=2).var(axis=0, ddof=1))
    np.testing.assert_allclose(found.column_var[0], whole[:, ::rows].mean(axis=1).var(axis=0, ddof=1))


def test_sums_of_full_scale_codes_do_not_overflow():
    accumulator = PixelAccumulator()
    for value in [65535, 65535, 65533] * 20:
        accumulator.add(np.full((3, 3), value, np.uint16))
    found = accumulator.finish()
    expected = np.array([65535, 65535, 65533] * 20, np.float64)
    assert found.variance == pytest.approx(expected.var(ddof=1), rel=1e-6)
    assert found.mean == pytest.approx(expected.mean(), rel=1e-14)


def test_frames_that_do_not_fit_are_refused():
    accumulator = PixelAccumulator()
    accumulator.add(np.zeros((4, 4), np.uint16))
    with pytest.raises(CalibrationError, match="at least 2"):
        accumulator.finish()
    with pytest.raises(ValueError, match="does not fit"):
        accumulator.add(np.zeros((4, 5), np.uint16))
    with pytest.raises(ValueError, match="uint8, uint16 or float"):
        PixelAccumulator().add(np.zeros((4, 4), np.int32))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_memory_of_one_stack_serves_the_next(dtype):
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 16384, (2, 4, 31, 18)).astype(dtype)
    accumulator = PixelAccumulator(period=(2, 2))
    accumulator.add(*first)
    accumulator.clear()
    accumulator.add(*second[:3])
    accumulator.add(second[3])
    found = accumulator.finish(release=True)
    whole = second.astype(np.float64)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, whole.var(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(found.row_var[:, 0], whole[:, :, ::2].mean(axis=2).var(axis=0, ddof=1))
