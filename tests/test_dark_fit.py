"""The dark model recovered from frames of bare NumPy whose every part is known."""

import numpy as np
import pytest
from scipy.stats import norm, tukeylambda

from rawkit.raw.image import CFA
from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.dark_fit import TILE, RegionSampler, code_edges, fit_dark_model
from rawkit.sensor.dark_model import QUANTILES
from rawkit.sensor.defects import find_defects
from rawkit.sensor.pixel_moments import PixelAccumulator
from rawkit.sensor.quantized import Tails

SHAPE, BLACK = (512, 640), 500.0
PROBABILITY = (np.arange(QUANTILES) + 0.5) / QUANTILES
HEAVY = -0.1  # shape of a Tukey-lambda law with heavy tails


def gaussian(rng, shape):
    return rng.standard_normal(shape)


def heavy(rng, shape):
    """Tukey-lambda law of unit variance, by its quantile function."""
    u = rng.random(shape)
    return (u**HEAVY - (1 - u) ** HEAVY) / HEAVY / tukeylambda.std(HEAVY)


def fit(frames, *, read_var, cfa=None, tails=()):
    cfa = cfa or CFA.mono()
    sample, stack = RegionSampler(period=cfa.shape), PixelAccumulator(period=cfa.shape)
    for frame in frames:
        stored = np.round(frame + BLACK).astype(np.uint16)
        sample.add(stored)
        stack.add(stored)
    moments = stack.finish()
    zero, phases = np.zeros(len(cfa.phases)), len(cfa.phases)
    noise = DarkNoise(
        zero, zero, np.broadcast_to(read_var, phases), zero, False, None, None, 0, 0, 0, 0, np.zeros((phases, 3)), tails
    )  # fmt: skip
    defects = find_defects(moments, cfa=cfa)
    return fit_dark_model(sample, moments, noise, cfa=cfa, black_level=np.full(phases, BLACK), defects=defects)


def autoregressive(rng, count, rho, sigma):
    innovation = rng.normal(0, sigma * np.sqrt(1 - rho**2), count + 200)
    series = np.zeros(count + 200)
    for i in range(1, len(series)):
        series[i] = rho * series[i - 1] + innovation[i]
    return series[200:]


def test_rows_pattern_and_law_of_a_color_sensor():
    """Correlated rows, heavy-tailed pixels of four variances, fixed pattern with a hot pixel, all at once."""
    rng = np.random.default_rng(0)
    cfa, count = CFA.bayer("GRBG"), 16
    sigma = np.array([2.0, 2.5, 2.7, 3.0])  # R, Gr, Gb, B
    scale = np.tile(sigma[cfa.phase_map], (SHAPE[0] // 2, SHAPE[1] // 2))
    fixed = rng.normal(0, 1.5, SHAPE)
    fixed[30, 40] += 300
    rows = np.array([autoregressive(rng, SHAPE[0], 0.9, 0.8) for _ in range(count)])
    frames = (fixed + row[:, None] + scale * heavy(rng, SHAPE) for row in rows)
    model, lines = fit(frames, read_var=sigma**2 + 1 / 12, cfa=cfa)

    truth = (rows - rows.mean(axis=0)) * np.sqrt(count / (count - 1))
    # Row means carry the pixels' noise, of which the Wiener factor leaves at most as much.
    pixels = np.sqrt(np.mean(sigma**2) / SHAPE[1])
    assert (model.row_series - truth).std() < 1.02 * pixels
    assert model.row_series.var() == pytest.approx(truth.var(), rel=0.02)  # without the factor 2.5 % too much
    lagged = [float((s[:, 1:] * s[:, :-1]).mean() / s.var()) for s in (model.row_series, truth)]
    assert lagged[0] == pytest.approx(lagged[1], abs=0.01)

    expected = tukeylambda.ppf(PROBABILITY, HEAVY) / tukeylambda.std(HEAVY)
    # A million pixels a phase: the outermost quantile (640 of them beyond) scatters by 0.75 %.  One factor for the
    # whole departure from a Gaussian undoes the mean of 16 frames to 1 % of sigma in the middle.
    for found, deviation in zip(model.pixel_quantiles, sigma, strict=True):
        assert np.abs(found / deviation - expected)[100:-100].max() < 0.015
        assert np.abs(found / deviation - expected).max() < 4 * 0.0075 * expected[-1]
        assert found.std() == pytest.approx(deviation * expected.std(), rel=0.01)

    error = model.fixed_pattern - fixed
    noise = scale.mean() / np.sqrt(count)
    assert error.std() < noise
    assert model.fixed_pattern[30, 40] - fixed[30, 40] == pytest.approx(0, abs=4 * 3.1 / np.sqrt(count))
    assert np.hypot(model.fixed_pattern.std(), model.fixed_residue) == pytest.approx(fixed.std(), rel=0.01)
    assert not lines


@pytest.mark.parametrize("count", [2, 4, 24])
@pytest.mark.parametrize("sigma", [0.7, 5.0])
def test_the_law_does_not_depend_on_the_number_of_frames_or_on_rounding(count, sigma):
    """The mean of few frames and the converter make residuals look different; the model undoes both."""
    rng = np.random.default_rng(1)
    fixed = rng.normal(0, 0.7, SHAPE)
    model, _ = fit((fixed + sigma * gaussian(rng, SHAPE) for _ in range(count)), read_var=sigma**2 + 1 / 12)
    pixels = (count - 1) * SHAPE[0] * min(SHAPE[1], 512)
    found, expected = model.pixel_quantiles[0] / sigma, norm.ppf(PROBABILITY)
    assert found.std() == pytest.approx(expected.std(), abs=0.001 + 4 / np.sqrt(2 * pixels))
    assert np.abs(found - expected).max() < 0.05


def test_tails_survive_the_mean_of_few_frames():
    """With 4 frames the residual has 0.58 of the pixels' excess kurtosis."""
    rng = np.random.default_rng(2)
    model, _ = fit((5.0 * heavy(rng, SHAPE) for _ in range(4)), read_var=25 + 1 / 12)
    expected = 5.0 * tukeylambda.ppf(PROBABILITY, HEAVY) / tukeylambda.std(HEAVY)
    assert model.pixel_quantiles[0][-1] == pytest.approx(expected[-1], rel=0.03)  # uncorrected 5 % too little


def test_the_law_has_the_shape_of_the_pixels_not_of_their_residuals():
    """Mean of 8 frames and rounding leave 1.5 % of sigma when undone by one factor; sampling, 0.2 % in the middle."""
    rng = np.random.default_rng(7)
    model, _ = fit((1.5 * heavy(rng, SHAPE) for _ in range(8)), read_var=1.5**2 + 1 / 12)
    found = model.pixel_quantiles[0] / 1.5 - tukeylambda.ppf(PROBABILITY, HEAVY) / tukeylambda.std(HEAVY)
    assert np.abs(found[100:-100]).max() < 0.008


def test_only_an_unbounded_law_that_beats_a_gaussian_shapes_the_tails():
    rng = np.random.default_rng(8)
    cases = ((-0.12, 50.0), (-0.02, 0.5), (0.1, 50.0), (-0.6, 50.0))
    laws = [Tails(2.0, shape, 0.01, 2.0, 1.0, gain) for shape, gain in cases]
    frames = [2.0 * gaussian(rng, (120, 120)) for _ in range(2)]
    found = [fit(frames, read_var=4 + 1 / 12, tails=(law,))[0].tail_shape for law in laws]
    assert found == [-0.12, None, None, None]


def test_a_colored_spectrum_and_a_moving_pattern():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]

    def power(shape):
        fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
        values = 1 + 1.5 * np.exp(-((fx / 0.1) ** 2)) + 0.4 * np.cos(2 * np.pi * fy)
        return values / values.mean()

    def frames(amplitude):
        root = np.sqrt(power(SHAPE))
        for _ in range(12):
            white = np.fft.fft2(rng.standard_normal(SHAPE))
            moving = np.cos(2 * np.pi * (80 / TILE * x + 30 / TILE * y) + rng.uniform(0, 2 * np.pi))
            yield 3.0 * np.fft.ifft2(root * white).real + amplitude * moving

    expected = np.log(power((TILE, TILE)))
    model, lines = fit(frames(0.0), read_var=9 + 1 / 12)
    # 44 periodograms, averaged over surroundings of 81 bins: 1.7 % and what the medians blur.
    assert (model.log_spectrum - expected).std() < 0.04
    assert expected.std() > 0.4
    assert not lines
    model, lines = fit(frames(0.3), read_var=9 + 1 / 12)
    assert [(line.fx, line.fy) for line in lines] == [(80 / TILE, 30 / TILE)]
    # Power a^2 N / 4 of the line over sigma^2 of the noise.
    assert lines[0].ratio == pytest.approx(1 + 0.09 * TILE**2 / 4 / (9 * power((TILE, TILE))[30, 80]), rel=0.3)
    assert model.log_spectrum[30, 80] - np.median(model.log_spectrum[25:36, 75:86]) > 0.9 * np.log(lines[0].ratio)


def test_white_noise_is_smooth_and_has_no_rows():
    rng = np.random.default_rng(4)
    model, lines = fit((4.0 * gaussian(rng, SHAPE) for _ in range(8)), read_var=16 + 1 / 12)
    assert np.abs(model.log_spectrum).max() < 0.4
    assert model.log_spectrum.std() < 0.05  # 28 periodograms scatter by 0.19
    assert model.row_series.std() < 0.5 * 4.0 / np.sqrt(SHAPE[1])
    assert model.code_edges is None
    assert not lines


def test_edges_of_an_uneven_converter():
    rng = np.random.default_rng(5)
    edges = np.cumsum(1 + 0.06 * rng.standard_normal(200))
    edges += 100 - edges[100]
    stored = np.searchsorted(edges, rng.normal(100, 5.0, 4_000_000))
    found = code_edges((0, np.bincount(stored, minlength=201)))
    assert found is not None
    first, levels = found
    truth = edges[first - 1 : first - 1 + len(levels)]
    width_error = np.diff(levels) - np.diff(truth)
    middle = slice(len(width_error) // 4, -(len(width_error) // 4))  # the outer codes have few counts
    assert width_error[middle].std() < 0.2 * 0.06
    assert code_edges((0, np.bincount(np.round(rng.normal(100, 5.0, 1_000_000)).astype(int)))) is None


def test_law_and_edges_together_give_the_counts():
    """Skewed noise through an uneven converter: what the law has of its shape, the edges must not have again."""
    rng, count = np.random.default_rng(8), 12
    edges = np.arange(1000) - 0.5 + 0.05 * rng.standard_normal(1000)
    skewed = (rng.gamma(60.0, 1.0, (count, *SHAPE)) - 60.0) * (3.0 / np.sqrt(60.0))
    rows = rng.choice((-0.5, 0.5), (count, SHAPE[0], 1))
    stored = np.searchsorted(edges, BLACK + skewed + rows) - 1.0
    model, _ = fit(stored - BLACK, read_var=9.25)
    # The model again, in bare NumPy; beyond the table its tails run on in proportion to a Gaussian's.
    first, levels = model.code_edges
    z, knots, law = rng.standard_normal(stored.shape), norm.ppf(PROBABILITY), model.pixel_quantiles[0]
    again = np.interp(z, knots, law) * np.maximum(1.0, np.abs(z) / knots[-1])
    again += BLACK + model.row_series[:, :, None] + model.fixed_pattern
    inside = (again >= levels[0]) & (again < levels[-1])
    codes = np.where(inside, first - 1 + np.searchsorted(levels, again), np.round(again)).astype(int)
    p, q = (np.bincount(c.astype(int).ravel(), minlength=600)[480:520] + 0.5 for c in (stored, codes))
    p, q = p / p.sum(), q / q.sum()
    # 30 codes of 3.9 million pixels: chance alone gives 30 / 3.9e6 = 8e-6; the skew counted twice gives 1e-3.
    assert np.sum(p * np.log(p / q)) < 5e-5


def test_a_spectral_line_keeps_its_power():
    rng, count, amplitude = np.random.default_rng(9), 8, 0.6
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    wave = 2 * np.pi * (40 * y + 24 * x) / TILE
    frames = [rng.normal(0, 3.0, SHAPE) + amplitude * np.sin(wave + rng.uniform(0, 2 * np.pi)) for _ in range(count)]
    model, _ = fit(frames, read_var=9.0)
    power = np.exp(model.log_spectrum)
    share = (power[40, 24] + power[-40, -24] - 2) / power.size
    truth = amplitude**2 / 2 / (9.0 + 1 / 12 + amplitude**2 / 2)
    # A line of power P over white noise w in m periodograms: relative error sqrt(2 w / (P m)), here 1 %.
    assert share == pytest.approx(truth, rel=0.05)


def test_a_doubled_code_is_twice_as_wide_and_its_neighbor_has_no_width():
    rng = np.random.default_rng(6)
    stored = 2 * np.round(rng.normal(50, 6.0, 1_000_000)).astype(int)
    first, levels = code_edges((0, np.bincount(stored)))
    assert first % 2 == 0
    np.testing.assert_allclose(np.diff(levels)[::2], 2.0, atol=1e-9)
    np.testing.assert_allclose(np.diff(levels)[1::2], 0.0, atol=1e-9)
    assert abs(levels[0] - (first - 1)) < 0.1


def test_defective_pixels_do_not_widen_the_law():
    rng = np.random.default_rng(7)
    blinking = rng.random(SHAPE) < 1e-3
    frames = (2.0 * gaussian(rng, SHAPE) + 60.0 * blinking * rng.integers(0, 2, SHAPE) for _ in range(16))
    model, _ = fit(frames, read_var=4 + 1 / 12)
    assert model.pixel_quantiles[0].std() == pytest.approx(2.0 * norm.ppf(PROBABILITY).std(), rel=0.005)
    assert (model.defects["kind"] == "telegraph").sum() == pytest.approx(blinking.sum(), rel=0.02)
