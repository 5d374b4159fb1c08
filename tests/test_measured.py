"""Mode ``measured``: every part of a dark model comes out of the frames as it went in."""

import numpy as np
import pytest
from scipy import special, stats

from rawkit.errors import CalibrationError, ProfileError
from rawkit.noise.measured import ROW_BLOCK, bootstrap_rows
from rawkit.noise.spectral_field import SpectralField
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.defects import DEFECT_DTYPE
from rawkit.sensor.iso_details import IsoDetails
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

BAYER = CFA.bayer("RGGB")
BLACK = 500.0
P = (np.arange(1025) + 0.5) / 1025


def spectrum(size=64):
    u, v = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    return np.log(1.0 + 0.5 * np.cos(2 * np.pi * v) + 0.2 * np.cos(4 * np.pi * u)).astype(np.float32)


def spectrum_with_lines():
    log_spectrum = spectrum()
    log_spectrum[32, 32], log_spectrum[16, 8], log_spectrum[-16, -8] = 4.0, 3.0, 3.0
    return log_spectrum


def simulated_profile(shape, *, read_vars=(9.0,), isos=(800.0,), **changes):
    """A profile whose dark model has everything; ``changes`` replace fields of it."""
    rng = np.random.default_rng(4)
    codes = np.arange(440, 560)
    model = {
        "fixed_pattern": (0.4 + rng.normal(0, 0.5, shape)).astype(np.float32),
        "fixed_residue": 0.2,
        "row_series": rng.normal(0, 0.6, (5, shape[0])).astype(np.float32),
        "column_noise": 0.3,
        "pixel_quantiles": (np.array([[2.0], [2.2], [2.4], [2.6]]) * special.ndtri(P)).astype(np.float32),
        "log_spectrum": spectrum_with_lines(),
        "code_edges": (440, codes - 0.5 + rng.normal(0, 0.08, codes.size)),
        "defects": np.array([(9, 8, "dead", 0.1), (3, 5, "hot", 60.0), (12, 7, "telegraph", 25.0)], DEFECT_DTYPE),
        "frames": 5,
    } | changes
    maps = DarkModel(**model).to_maps(isos[0])
    noise = NoiseModel([(iso, NoiseParams(1.5 * iso / 800, v)) for iso, v in zip(isos, read_vars, strict=True)])
    details = {isos[0]: IsoDetails(prnu=0.01, black_offset=0.4)}
    return CameraProfile(
        "", "simulated", noise, black_level=(BLACK + 0.4,), white_level=4095, details=details, maps=maps
    )


def plain(shape, **changes):
    """Nothing but white Gaussian pixel noise of 2 DN, unless changed."""
    nothing = {
        "fixed_pattern": np.zeros(shape, np.float32),
        "fixed_residue": 0.0,
        "row_series": np.zeros((2, shape[0]), np.float32),
        "column_noise": 0.0,
        "pixel_quantiles": (2.0 * special.ndtri(P)).astype(np.float32)[None],
        "log_spectrum": np.zeros((64, 64), np.float32),
        "code_edges": None,
        "defects": np.empty(0, DEFECT_DTYPE),
    }
    return simulated_profile(shape, **(nothing | changes))


def darks(profile, shape, frames, *, seed=1, level=0.0, quantize=False, **options):
    synthesizer = NoiseSynthesizer(profile, mode="measured", **options)
    clean = np.full(shape, level, np.float32)
    return np.stack(
        [synthesizer.mosaic(clean, 800, cfa=BAYER, seed=seed, frame=f, quantize=quantize) for f in range(frames)]
    ).astype(np.float64)


def test_pixel_noise_has_the_measured_distribution():
    """Two-sided exponential: quantiles inside the table, and proportional to z beyond."""
    quantiles = np.where(P < 0.5, np.log(2 * P), -np.log(2 * (1 - P))).astype(np.float32)[None]
    shape = (500, 800)
    values = darks(plain(shape, pixel_quantiles=quantiles), shape, 1)[0].ravel()
    edges = np.array([-5.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 5.0])
    expected = values.size * np.diff(stats.laplace.cdf(edges))
    observed = np.histogram(values, edges)[0]
    # Linear interpolation between 64 knots per sigma: 1e-4 of a bin, far below the 1/sqrt(n) = 3e-3 of sampling.
    assert stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected)) > 1e-6
    assert abs(values).max() < 12


def test_tails_beyond_the_table_follow_the_law():
    """Of a Tukey-lambda law the table ends at 1 pixel in 2050; 14 and 18 DN lie well beyond."""
    shape, heavy = (1000, 1000), stats.tukeylambda(-0.1)
    quantiles = heavy.ppf(P).astype(np.float32)[None]
    values = np.abs(darks(plain(shape, pixel_quantiles=quantiles, tail_shape=-0.1), shape, 1)[0])
    for level in (14.0, 18.0):
        expected = 2 * values.size * heavy.sf(level)
        assert 25 < expected < values.size / 1025
        assert abs(np.count_nonzero(values > level) - expected) < 4 * np.sqrt(expected)


def test_pixel_noise_has_the_measured_spectrum_everywhere():
    """Also across the seams of the blocks; lag-1 correlation of 1 + 0.5 cos is 0.25, lag 2 along rows 0.1."""
    shape = (700, 700)
    z = SpectralField(spectrum()).draw(shape, seed=3)
    n = z.size
    products = {0.25: z[:, 1:] * z[:, :-1], 0.1: z[2:] * z[:-2], 0.0: z[1:] * z[:-1], 1.0: z * z}
    for expected, product in products.items():
        # Correlated samples: at most sum rho^2 = 1.4 times the error of independent ones; E[(zz')^2] <= 3.
        assert abs(product.mean() - expected) < 5 * np.sqrt(1.4 * 3 / n)
    seams = np.arange(56, 700, 56)
    assert abs((z[:, seams] ** 2).mean() - 1) < 5 * np.sqrt(1.4 * 2 / (seams.size * 700))
    assert abs((z[:, seams] * z[:, seams - 1]).mean() - 0.25) < 5 * np.sqrt(1.4 * 3 / (seams.size * 700))


def test_spectral_lines_are_coherent_over_the_frame_and_new_in_each():
    """Two lines of 4 % (at 1/4, 1/8) and 1 % (checkerboard) of the variance: full power in one bin of a frame of any
    size that holds whole periods."""
    power = np.ones((64, 64))
    power[16, 8] = power[-16, -8] = 0.02 * 64**2
    power[32, 32] = 0.01 * 64**2
    field = SpectralField(np.log(power))
    total = power.mean()
    frames = np.stack([field.draw((192, 320), seed=1, frame=f) for f in range(20)])
    spectra = np.fft.fft2(frames) / frames[0].size
    share = (np.abs(spectra) ** 2).mean(axis=0)
    # Noise under a line: 1 / 61440 of the variance; with the line it makes 2 sqrt(share / 61440 / 20) of scatter.
    for place, expected in (((48, 40), 0.02 / total), ((96, 160), 0.01 / total)):
        assert share[place] == pytest.approx(expected, abs=5 * 2 * np.sqrt(expected / 61440 / 20) + 1 / 61440)
    assert frames.var() == pytest.approx(1, abs=5 * np.sqrt(2 / frames.size))
    phases = np.exp(1j * np.angle(spectra[:, 48, 40]))
    assert abs(phases.mean()) < 5 / np.sqrt(20)
    assert {-1.0, 1.0} == set(np.sign(spectra[:, 96, 160].real))
    assert np.array_equal(frames[3][70:101, 33:200], field.draw((31, 167), seed=1, frame=3, origin=(70, 33)))


def test_rows_come_in_blocks_from_one_real_frame():
    series = (np.arange(3)[:, None] * 1000 + np.arange(480)).astype(np.float32)
    rows = bootstrap_rows(series)
    seen = []
    for frame in range(42):
        drawn = rows(1, frame, 0, 480)
        seen.append(int(drawn[0] // 1000))
        assert len({int(v) for v in drawn // 1000}) == 1
        blocks = drawn.reshape(-1, ROW_BLOCK)
        assert np.all(np.isin(np.diff(blocks, axis=1), (1, 1 - 480)))
        assert np.all(blocks[:, 0] % 2 == 0)
        assert len({int(v) for v in drawn}) == 480  # every row once: the frame keeps its level
        assert np.array_equal(rows(1, frame, 100, 50), drawn[100:150])
    turns = np.reshape(seen, (-1, 3))
    assert np.all(np.sort(turns, axis=1) == (0, 1, 2))
    assert len({tuple(turn) for turn in turns.tolist()}) > 3  # of 6 orders
    assert np.unique(rows(1, 0, 0, 1920)).size == 480


def test_rows_are_shared_by_all_colors_and_columns_by_all_rows():
    shape, frames = (400, 300), 4
    series = np.random.default_rng(1).normal(0, 3.0, (6, 400)).astype(np.float32)
    stack = darks(plain(shape, row_series=series, column_noise=2.0), shape, frames)
    rows, columns = stack.mean(axis=2), stack.mean(axis=1)
    even, odd = stack[:, :, ::2].mean(axis=2), stack[:, :, 1::2].mean(axis=2)
    assert np.corrcoef(even.ravel(), odd.ravel())[0, 1] > 0.95
    # sd of a sample standard deviation: sigma / sqrt(2 n); the pixels add 4/300 and 4/400 to the variances.
    assert rows.std() == pytest.approx(np.sqrt(9 + 4 / 300), abs=5 * 3 / np.sqrt(2 * rows.size) + 0.2)
    assert columns.std() == pytest.approx(np.sqrt(4 + 4 / 400), abs=5 * 2 / np.sqrt(2 * columns.size))
    assert abs(np.corrcoef(columns[0], columns[1])[0, 1]) < 5 / np.sqrt(300)


def test_the_fixed_pattern_is_common_to_all_frames_and_topped_up():
    shape, frames = (200, 240), 64
    pattern = np.random.default_rng(1).normal(1.0, 2.0, shape).astype(np.float32)
    profile = plain(shape, fixed_pattern=pattern, fixed_residue=1.0)
    mean = darks(profile, shape, frames).mean(axis=0)
    rest = mean - pattern
    assert rest.std() == pytest.approx(np.sqrt(1.0 + 4.0 / frames), rel=5 / np.sqrt(2 * rest.size))
    same = darks(profile, shape, 16, seed=99).mean(axis=0) - pattern
    other = darks(profile, shape, 16, seed=98, unit=5).mean(axis=0) - pattern
    assert np.corrcoef(rest.ravel(), same.ravel())[0, 1] > 0.8
    assert abs(np.corrcoef(rest.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(rest.size)


def test_defects():
    shape, frames = (40, 40), 400
    pattern = np.zeros(shape, np.float32)
    pattern[3, 5] = 60.0
    profile = plain(shape, fixed_pattern=pattern, defects=simulated_profile(shape).maps["defects_iso800"])
    dark = darks(profile, shape, frames)
    hot, telegraph = dark[:, 3, 5], dark[:, 12, 7]
    # Dark current's shot noise: K times 60 DN on top of 4 DN^2.
    assert hot.mean() == pytest.approx(60, abs=5 * np.sqrt(94 / frames))
    assert hot.var() == pytest.approx(4 + 1.5 * 60, rel=5 * np.sqrt(2.2 / frames))
    up = telegraph > 0
    assert abs(up.mean() - 0.5) < 5 * 0.5 / np.sqrt(frames)
    assert telegraph[up].mean() == pytest.approx(25, abs=5 * 2 / np.sqrt(up.sum()))
    lit = darks(profile, shape, frames, level=100.0, prnu=False)
    assert lit[:, 9, 8].mean() == pytest.approx(10, abs=5 * np.sqrt((4 + 15) / frames))
    assert lit[:, 20, 20].mean() == pytest.approx(100, abs=5 * np.sqrt(154 / frames))


def test_rare_events_of_heavy_tails_are_no_telegraph_pixels():
    """20 frames of a Laplace law on 250 000 pixels: those that a Gaussian test flags are in the law already."""
    quantiles = np.where(P < 0.5, np.log(2 * P), -np.log(2 * (1 - P))).astype(np.float32)[None]
    shape, frames = (500, 500), 20
    variance = np.random.default_rng(5).laplace(size=(frames, *shape)).var(axis=0, ddof=1)
    typical = np.median(variance) * (frames - 1) / stats.chi2.median(frames - 1)
    flagged = np.argwhere(variance * (frames - 1) > stats.chi2.isf(1 / variance.size, frames - 1) * typical)
    excess = np.sqrt(variance[tuple(flagged.T)] - typical)
    assert len(flagged) > 1000
    defects = np.array([(i, j, "telegraph", e) for (i, j), e in zip(flagged, excess, strict=True)], DEFECT_DTYPE)
    real = np.array([(7, 9, "telegraph", 6.0)], DEFECT_DTYPE)
    profile = plain(shape, pixel_quantiles=quantiles, defects=np.concatenate([defects, real]), frames=frames)
    places, levels = NoiseSynthesizer(profile).read_noise(800, BAYER).telegraph
    # One ordinary pixel is expected to pass, and a few more where the table's tails are lighter than the law's.
    assert 1 <= len(places) < 20
    assert (7, 9) in {(int(i), int(j)) for i, j in places}
    assert 6.0 in levels


def test_pixels_respond_unequally():
    shape, frames = (200, 200), 25
    mean = darks(plain(shape), shape, frames, level=3000.0).mean(axis=0)
    expected = np.hypot(0.01 * 3000, np.sqrt((1.5 * 3000 + 4) / frames))
    assert mean.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * mean.size))
    flat = darks(plain(shape), shape, frames, level=3000.0, prnu=False).mean(axis=0)
    assert flat.std() == pytest.approx(np.sqrt((1.5 * 3000 + 4) / frames), rel=5 / np.sqrt(2 * mean.size))


def test_codes_are_as_wide_as_measured():
    """Wide noise fills neighboring codes in proportion to their widths: also far off its place, and ideal outside."""
    shape = (600, 1000)
    edges = np.array([495.5, 496.5, 497.2, 498.9, 499.1, 500.5, 501.9, 502.5])
    profile = plain(shape, code_edges=(496, edges))
    stored = NoiseSynthesizer(profile).stored(
        np.zeros(shape, np.float32), 800, cfa=BAYER, black=BLACK, white_level=4095, seed=1
    )
    codes = np.arange(490, 511)
    lower = np.where((codes >= 496) & (codes < 504), edges[np.clip(codes - 496, 0, 7)], codes - 0.5)
    expected = stored.size * np.diff(stats.norm.cdf(np.append(lower, 510.5), BLACK, 2.0))
    observed = np.bincount(stored.ravel(), minlength=600)[codes]
    assert stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), codes.size) > 1e-6
    signal = NoiseSynthesizer(profile).mosaic(np.zeros(shape, np.float32), 800, cfa=BAYER, seed=1)
    assert np.array_equal(signal + BLACK, stored)


def test_tiles_crops_and_workers_do_not_change_a_pixel():
    shape = (330, 290)
    synthesizer = NoiseSynthesizer(simulated_profile(shape))
    clean = np.random.default_rng(1).uniform(-2, 300, shape).astype(np.float32)
    options = {"black": BLACK, "white_level": 4095, "seed": 3, "frame": 2}
    whole = synthesizer.stored(clean, 800, cfa=BAYER, **options)
    assert np.array_equal(whole, synthesizer.stored(clean, 800, cfa=BAYER, workers=2, **options))
    for top, left, height, width in ((0, 0, 8, 8), (55, 57, 3, 200), (101, 30, 229, 111), (329, 289, 1, 1)):
        here = np.s_[top : top + height, left : left + width]
        tile = synthesizer.stored(clean[here], 800, cfa=BAYER.rolled(top, left), origin=(top, left), **options)
        assert np.array_equal(whole[here], tile)


def test_another_iso_of_the_segment_scales_the_nearest():
    shape = (300, 300)
    profile = plain(shape, isos=(800.0, 1600.0), read_vars=(4.0, 16.0))
    clean = np.zeros(shape, np.float32)
    noisy = NoiseSynthesizer(profile).mosaic(clean, 1600, cfa=BAYER, seed=1, quantize=False)
    assert noisy.std(dtype=np.float64) == pytest.approx(4.0, rel=5 / np.sqrt(2 * noisy.size))


def test_measured_is_the_default_where_there_is_a_model():
    profile = plain((8, 8))
    assert NoiseSynthesizer(profile).mode_at(800) == "measured"
    assert NoiseSynthesizer(profile).mode_at(None) == "pg"
    bare = CameraProfile("", "bare", NoiseModel([(800.0, NoiseParams(1.0, 4.0))]))
    assert NoiseSynthesizer(bare).mode_at(800) == "pg"
    with pytest.raises(ProfileError, match="no dark model"):
        NoiseSynthesizer(bare, mode="measured").mosaic(np.zeros((4, 4)), 800, cfa=BAYER, seed=1)


def test_pictures_larger_than_the_sensor_are_refused():
    with pytest.raises(CalibrationError, match="8 x 8"):
        NoiseSynthesizer(plain((8, 8))).mosaic(np.zeros((9, 8)), 800, cfa=BAYER, seed=1)
