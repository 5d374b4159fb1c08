"""DSNU and PRNU measured on stacks of bare NumPy with known patterns."""

import numpy as np
import pytest
from stacks import SHAPE, SIGMAS, darks, pattern
from synthetic import expose, field

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.uniformity import dsnu, emva_split, prnu


def within(result, part, truth):
    value, error = getattr(result, part), getattr(result, part + "_se")
    return abs(value - truth) < SIGMAS * error


@pytest.mark.parametrize("convention", ["default", "emva1288"])
def test_row_column_and_pixel_dsnu_are_told_apart(convention):
    rng = np.random.default_rng(2)
    stack = PixelMoments.of(darks(rng, pattern(rng, row=0.5, column=1.0, pixel=1.5)))
    result = dsnu(stack, convention=convention)
    for part, truth in (("row", 0.5), ("column", 1.0), ("pixel", 1.5), ("total", 3.5**0.5)):
        assert within(result, part, truth), (part, getattr(result, part))
    # The errors are not excuses: rows are known to 1 / sqrt(2 rows), pixels to a fraction of a percent.
    assert result.row_se / result.row < 0.06
    assert result.pixel_se / result.pixel < 0.005


def test_emva_split_is_the_standard_s_arithmetic():
    """Written out once more from EMVA 1288 section 8.2, with loops instead of rearranged means."""
    rng = np.random.default_rng(3)
    frames = rng.normal(100, 2, (4, 7, 9)) + rng.normal(0, 3, (7, 1)) + rng.normal(0, 1, (1, 9))
    found = emva_split(PixelMoments.of(frames))
    m, n, count = 7, 9, 4
    y = frames.mean(axis=0)
    stack = frames.var(axis=0, ddof=1).mean()
    total = ((y - y.mean()) ** 2).sum() / (m * n - 1) - stack / count
    cav = sum((y[:, j].mean() - y.mean()) ** 2 for j in range(n)) / n - stack / (count * m)
    rav = sum((y[i].mean() - y.mean()) ** 2 for i in range(m)) / m - stack / (count * n)
    rest = m * n - m - n
    assert found.column == pytest.approx((m * n - m) / rest * cav - n / rest * (total - rav), rel=1e-5)
    assert found.row == pytest.approx((m * n - n) / rest * rav - m / rest * (total - cav), rel=1e-5)
    assert found.pixel == pytest.approx(m * n / rest * (total - cav - rav), rel=1e-5)
    assert found.row + found.column + found.pixel == pytest.approx(found.total, rel=1e-9)


def test_a_negative_variance_is_kept_and_its_root_is_nan():
    """Independent noise without pattern: the pixel variance is zero within its error, whichever the sign."""
    signs = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        result = dsnu(PixelMoments.of(darks(rng, np.zeros((60, 80)), count=4)))
        assert abs(result.variance.pixel) < SIGMAS * result.variance.pixel_se
        assert np.isnan(result.pixel) == (result.variance.pixel < 0)
        signs.append(np.isnan(result.pixel))
    assert any(signs)
    assert not all(signs)


def test_standard_errors_are_the_scatter_between_sensors():
    """Scatter of 60 sensors over the stated error: 1 within its own sampling error, 1 / sqrt(120), four times."""
    found = {part: [] for part in ("row", "column", "pixel")}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        fixed = rng.normal(0, 0.7, (40, 1)) + rng.normal(0, 0.7, (1, 60)) + rng.normal(0, 1.0, (40, 60))
        result = dsnu(PixelMoments.of(darks(rng, fixed, count=6, sigma=2.0, row_noise=1.0))).variance
        for part, truth in (("row", 0.49), ("column", 0.49), ("pixel", 1.0)):
            found[part].append((getattr(result, part) - truth) / getattr(result, part + "_se"))
    for part, scores in found.items():
        assert np.std(scores) == pytest.approx(1.0, abs=4 / np.sqrt(120)), part
        assert abs(np.mean(scores)) < 4 / np.sqrt(60), part


def test_temporal_row_noise_and_drift_are_no_fixed_pattern():
    """EMVA reports temporal row noise of 2 DN in 16 frames as 0.5 DN of row DSNU; the default does not."""
    rng = np.random.default_rng(4)
    stack = PixelMoments.of(darks(rng, pattern(rng, column=0.5, pixel=1.0), row_noise=2.0, drift=4.0))
    ours, theirs = dsnu(stack).variance, dsnu(stack, convention="emva1288").variance
    assert abs(ours.row) < SIGMAS * ours.row_se
    assert abs(ours.pixel - 1.0) < SIGMAS * ours.pixel_se
    assert theirs.row == pytest.approx(0.25, rel=0.4)  # 240 rows: 9 %, four times
    # The drift's 4^2 / 16 DN^2 is taken from the standard's pixel variance, which it never was part of.
    assert theirs.total < ours.total - 0.5


def test_few_columns_make_no_row_noise():
    """White noise of 5 DN moves the mean of 20 pixels by 1.1 DN: that is no temporal row noise to subtract."""
    rng = np.random.default_rng(21)
    fixed = pattern(rng, row=0.8, shape=(400, 20))
    result = dsnu(PixelMoments.of(darks(rng, fixed, count=4, sigma=5.0))).variance
    assert abs(result.row - 0.64) < SIGMAS * result.row_se
    assert result.row_se < 0.15


def test_prnu_under_falloff_outliers_and_flicker():
    """0.5 % under 4 % falloff and 0.05 % outliers within 2 % of the truth, with lamp flicker on top."""
    rng = np.random.default_rng(5)
    shape = (480, 640)
    response = 1.0 + pattern(rng, pixel=0.005, shape=shape)
    outliers = rng.random(shape) < 5e-4
    response[outliers] *= rng.uniform(0.5, 1.5, outliers.sum())
    light = field(shape, vignetting=0.04, rng=rng) * response
    fixed = pattern(rng, pixel=1.0, shape=shape)

    def frames(electrons, flicker):
        for _ in range(8):
            lamp = 1.0 + flicker * rng.standard_normal()
            yield expose(electrons * lamp, system_gain=0.4, read_noise=3.0, white=4095.0, dsnu=fixed, rng=rng)

    dark = PixelMoments.of(frames(np.zeros(shape), 0.0))
    flat = PixelMoments.of(frames(4000.0 * light, 0.005))
    result = prnu(flat, dark)
    assert result.total == pytest.approx(0.005, rel=0.02)
    assert result.pixel == pytest.approx(0.005, rel=0.02)
    assert result.shading == pytest.approx(field(shape, vignetting=0.04, rng=rng).std(), rel=0.05)
    assert 3e-4 < result.rejected < 6e-4
    assert result.order == 2
    theirs = prnu(flat, dark, convention="emva1288")
    assert theirs.total > 0.008  # shading and outliers count


def test_a_lens_vignetting_gets_a_surface_of_higher_order():
    """65 % falloff: a quadratic leaves 7 %, ten times the PRNU."""
    rng = np.random.default_rng(6)
    radius = np.hypot(*np.meshgrid(np.linspace(-1, 1, SHAPE[1]), np.linspace(-1, 1, SHAPE[0])))
    light = 1.0 / (1.0 + 0.35 * radius**2) ** 2 * (1.0 + pattern(rng, pixel=0.005))
    flat = PixelMoments.of(rng.normal(50 + 2000 * light, 10.0) for _ in range(8))
    dark = PixelMoments.of(darks(rng, np.zeros(SHAPE), level=50.0))
    coarse, result = prnu(flat, dark, order=2), prnu(flat, dark)
    assert coarse.shading_left > 0.03
    assert coarse.total > 0.05
    assert result.order == 8
    assert result.shading_left == 0.0
    # The surface of order 8 is 0.02 % off: 0.1 % of the PRNU.
    assert abs(result.pixel - 0.005) < SIGMAS * result.pixel_se + 0.001 * 0.005


def test_phases_of_a_mosaic_have_their_own_prnu():
    rng = np.random.default_rng(7)
    cfa, shape = CFA.bayer("GBRG"), (200, 240)
    truth = np.array([0.004, 0.006, 0.008, 0.012])  # R, Gr, Gb, B
    levels = np.array([800.0, 1500.0, 1500.0, 1000.0])
    phase = np.tile(cfa.phase_map, (shape[0] // 2, shape[1] // 2))
    light = levels[phase] * (1 + truth[phase] * rng.standard_normal(shape))
    flat = PixelMoments.of((rng.normal(light, 5.0) + 100 for _ in range(10)), period=(2, 2))
    dark = PixelMoments.of((rng.normal(100.0, 2.0, shape) for _ in range(10)), period=(2, 2))
    for (f,), (d,), expected in zip(flat.phases(cfa), dark.phases(cfa), truth, strict=True):
        assert within(prnu(f, d), "pixel", expected)


def test_exchanged_stacks_are_refused():
    rng = np.random.default_rng(8)
    low, high = (PixelMoments.of(darks(rng, np.zeros((20, 20)), level=level)) for level in (100, 900))
    with pytest.raises(CalibrationError, match="exchanged"):
        prnu(low, high)
