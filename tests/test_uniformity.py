"""Uniformity measured on stacks of bare NumPy with known patterns."""

import numpy as np
import pytest
from synthetic import expose, field

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.uniformity import (
    PixelAccumulator,
    PixelMoments,
    code_widths,
    defect_histogram,
    dsnu,
    emva_split,
    find_defects,
    fit_dark_shading,
    fit_surface,
    pattern_lines,
    prnu,
    shrink_fixed_pattern,
    spectrogram,
)

SHAPE = (240, 320)
SIGMAS = 4.0  # 1 in 16000 by chance


def pattern(rng, *, row=0.0, column=0.0, pixel=0.0, shape=SHAPE):
    """Fixed pattern whose row, column and pixel parts have exactly these standard deviations."""

    def unit(values):
        return (values - values.mean()) / values.std()

    return (
        row * unit(rng.standard_normal((shape[0], 1)))
        + column * unit(rng.standard_normal((1, shape[1])))
        + pixel * unit(rng.standard_normal(shape))
    )


def darks(rng, fixed, *, count=16, sigma=3.0, row_noise=0.0, drift=0.0, level=200.0):
    """Stored darks: fixed pattern, white and row noise, drifting level, quantized."""
    for _ in range(count):
        frame = level + fixed + sigma * rng.standard_normal(fixed.shape) + drift * rng.standard_normal()
        yield np.round(frame + row_noise * rng.standard_normal((fixed.shape[0], 1))).astype(np.uint16)


def within(result, part, truth):
    value, error = getattr(result, part), getattr(result, part + "_se")
    return abs(value - truth) < SIGMAS * error


# -------------------------------------------------------------------------------------------------- moments


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


# ------------------------------------------------------------------------------------------ DSNU and PRNU


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


def test_a_surface_is_recovered_where_pixels_are_left_out():
    y, x = np.mgrid[-1:1:90j, -1:1:131j]
    truth = 3.0 + 2.0 * x - y + 0.5 * x * y + x**2 - 2.0 * y**2
    image, keep = truth.copy(), np.ones(truth.shape, bool)
    image[40:50, 60:70], keep[40:50, 60:70] = 1e6, False
    # Blocks stand for their pixels: exact but for the few blocks that are cut.
    assert np.abs(fit_surface(image, keep=keep) - truth).max() < 2e-3
    assert np.abs(fit_surface(truth) - truth).max() < 1e-10


# ------------------------------------------------------------------------------------------------ spectra


def test_white_noise_has_a_flat_spectrogram_of_its_variance():
    rng = np.random.default_rng(9)
    image = rng.normal(0, 2.0, (300, 200))
    for direction, lines in (("horizontal", 300), ("vertical", 200)):
        found = spectrogram(image, direction=direction)
        assert found.power[1:].mean() == pytest.approx(4.0, rel=0.03)  # 60000 pixels: 0.6 %
        assert found.power[1:].std() == pytest.approx(4.0 / np.sqrt(lines), rel=0.5)
        assert found.frequency[1] == pytest.approx(lines / 60000)


def test_patterns_of_any_direction_are_found_with_their_amplitude():
    rng = np.random.default_rng(10)
    y, x = np.mgrid[0:480, 0:640]
    truth = [(0.1037, 0.2211, 0.12), (0.2503, -0.0741, 0.1), (0.0, 0.3333, 0.08), (0.125, 0.0, 0.08)]
    image = rng.normal(0, 1.0, (480, 640)) + 1e-3 * x
    for fx, fy, amplitude in truth:
        image += amplitude * np.cos(2 * np.pi * (fx * x + fy * y) + 1.0)
    image[100, 100] = 500.0
    found = pattern_lines(image)
    assert len(found) == len(truth)
    for fx, fy, amplitude in truth:
        line = min(found, key=lambda line: np.hypot(line.fx - fx, line.fy - fy))
        assert line.fx == pytest.approx(fx, abs=0.1 / 640)
        assert line.fy == pytest.approx(fy, abs=0.1 / 480)
        assert abs(line.amplitude - amplitude) < SIGMAS * line.amplitude_se
        assert line.amplitude_se < 0.005


def test_alternating_rows_and_a_checkerboard_have_their_amplitude():
    """At frequency 1/2 the two halves of a cosine's spectrum coincide."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:240, 0:320]
    image = rng.normal(0, 1.0, (240, 320)) + 0.1 * (-1.0) ** y + 0.15 * (-1.0) ** (x + y)
    rows, checkers = sorted(pattern_lines(image), key=lambda line: line.fx)
    assert (rows.fx, rows.fy) == (0.0, 0.5)
    assert (checkers.fx, abs(checkers.fy)) == (0.5, 0.5)
    assert abs(rows.amplitude - 0.1) < SIGMAS * rows.amplitude_se
    assert abs(checkers.amplitude - 0.15) < SIGMAS * checkers.amplitude_se


def test_noise_has_no_lines_not_even_with_random_rows():
    """0.01 invented lines per image are stated: 30 images may show two at most."""
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 1.0, (200, 300)) + rng.normal(0, 0.3, (200, 1))
        found += len(pattern_lines(image))
    assert found <= 2


def test_lines_are_invented_as_rarely_as_stated():
    """3 false lines an image: 1 each among rows, columns, and the rest; a peak's neighbors do not count again."""
    axes = rest = 0
    for seed in range(100):
        for line in pattern_lines(np.random.default_rng(seed).normal(0, 1.0, (64, 64)), false_alarms=3.0):
            if line.fx == 0 or line.fy == 0:
                axes += 1
            else:
                rest += 1
    assert abs(rest - 100) < 4 * np.sqrt(100)
    assert axes < 200


# -------------------------------------------------------------------------- fixed pattern and dark shading


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


# ------------------------------------------------------------------------------------------------ defects


def test_defects_are_found_and_named():
    rng = np.random.default_rng(13)
    shape, count = (120, 160), 20
    hot, dead, telegraph, glowing = (10, 20), (51, 61), (33, 90), (100, 7)
    dark_level, response = np.zeros(shape), 1 + 0.01 * rng.standard_normal(shape)
    dark_level[hot], response[dead] = 40.0, 0.1

    def stack(level, seconds):
        for _ in range(count):
            frame = 100 + dark_level + level * response + rng.normal(0, 2.0, shape)
            frame[glowing] += rng.poisson(400 * seconds)
            frame[telegraph] += 20.0 * rng.integers(0, 2)
            yield np.round(frame).astype(np.uint16)

    short, long, flat = (
        PixelMoments.of(stack(level, seconds), period=(2, 2)) for level, seconds in ((0, 0), (0, 1), (900, 0))
    )
    found = find_defects(
        short, cfa=CFA.bayer("RGGB"), flat=flat, long_dark=long, exposure_difference=1.0, false_alarms=1e-3
    )
    places = {(int(d["row"]), int(d["column"]), str(d["kind"])): float(d["value"]) for d in found}
    assert places.pop((*hot, "hot")) == pytest.approx(40.0, abs=4 * 2 / np.sqrt(count) + 0.5)
    assert places.pop((*glowing, "growing")) == pytest.approx(400.0, abs=4 * 5)
    assert places.pop((*dead, "dead")) == pytest.approx(0.1, abs=0.02)
    assert places.pop((*telegraph, "telegraph")) == pytest.approx(10.0, rel=0.4)
    places.pop((*telegraph, "hot"), None)  # its mean is 10 DN up: it is both
    assert not places


def test_telegraph_false_alarms_are_as_stated():
    """20 expected in 4 maps of 5 each: within four Poisson standard deviations."""
    found = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        stack = PixelMoments.of(darks(rng, np.zeros((300, 400)), count=10))
        found += int((find_defects(stack, false_alarms=5.0)["kind"] == "telegraph").sum())
    assert abs(found - 20) < 4 * np.sqrt(20)


def test_a_steady_hot_pixel_is_no_telegraph_pixel_once_the_gain_is_known():
    rng = np.random.default_rng(14)
    gain, hot = 2.0, (5, 6)
    electrons = np.zeros((60, 60))
    electrons[hot] = 400.0
    stack = PixelMoments.of(expose(electrons, system_gain=gain, read_noise=3.0, rng=rng) for _ in range(30))
    kinds = [str(d["kind"]) for d in find_defects(stack, system_gain=gain, false_alarms=0.01)]
    assert kinds == ["hot"]
    assert "telegraph" in [str(d["kind"]) for d in find_defects(stack, false_alarms=0.01)]


def test_the_histogram_of_a_gaussian_follows_its_model():
    rng = np.random.default_rng(15)
    found = defect_histogram(rng.normal(10, 2, (400, 500)))
    assert found.count.sum() == 200_000
    chi2 = ((found.count - found.model)[found.model > 20] ** 2 / found.model[found.model > 20]).mean()
    assert chi2 == pytest.approx(1.0, abs=0.5)
    assert found.beyond[0] == 100.0
    assert np.all(np.diff(found.beyond) <= 0)
    at_two_sigma = np.interp(4.0, found.distance, found.beyond)
    assert at_two_sigma == pytest.approx(4.55, abs=0.3)


# -------------------------------------------------------------------------------------------- code widths


def test_code_widths_of_a_converter_with_known_edges():
    rng = np.random.default_rng(16)
    width = 1 + 0.07 * rng.standard_normal(64)
    edges = np.concatenate([[0.0], np.cumsum(width)])
    analog = rng.normal(30.0, 3.5, 4_000_000)
    counts = np.bincount(np.searchsorted(edges, analog) - 1, minlength=64)
    found = code_widths(counts)
    truth = width[found.code]
    error = found.width - truth
    # A slow trend of the widths cannot be told from the shape of the distribution; all else is seen.
    x = np.linspace(-1, 1, len(error))
    weights = 1 / np.hypot(found.width_se, 0.005)
    trend = np.polynomial.Polynomial.fit(x, error, found.order, w=weights)(x)
    well = found.width_se < 0.01
    scores = ((error - trend) / found.width_se)[well]
    assert (scores**2).mean() < 1 + 4 * np.sqrt(2 / well.sum())
    assert found.rms == pytest.approx(truth.std(), abs=4 * found.rms_se)
    # Where codes lie matters: with the code number for the position, errors are five times as large.
    assert (error - trend)[well].std() < 0.006


def test_a_perfect_converter_shows_no_dnl():
    rng = np.random.default_rng(17)
    counts = np.bincount(np.round(rng.normal(300.3, 4.0, 1_000_000)).astype(int))
    found = code_widths(counts)
    assert found.order == 2
    scores = (found.width - 1) / found.width_se
    assert (scores**2).mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / len(scores)))
    assert not found.rms > 0.01


def test_too_few_codes_are_refused():
    with pytest.raises(CalibrationError, match="neighboring codes"):
        code_widths(np.array([0, 10, 5000, 9000, 5000, 10]))
