"""Poisson-Gaussian synthesis: moments against the model, reproducibility, the stored file."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rawkit.errors import MetadataError
from rawkit.noise.synthesis import NoiseSynthesizer, analog_variance, rounded_variance
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage, pack
from rawkit.sensor.params import NoiseParams

GAINS = np.array([2.5, 1.7, 1.8, 0.6])
READ_VARS = np.array([9.0, 4.0, 1.2, 30.0])
PARAMS = NoiseParams(GAINS, READ_VARS)


def clean_image(level=200.0, shape=(64, 96), cfa="GRBG", **kwargs):
    cfa = CFA.bayer(cfa)
    raster = np.full(shape, level + 512.0, np.float32)
    defaults = {"black": BlackLevel.constant(512), "white_level": 16383.0, "metadata": Metadata(iso=800.0)}
    return RawImage(raster=raster, cfa=cfa, **(defaults | kwargs))


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("level", [0.0, 0.7, 12.3, 400.4, 9000.0])
def test_mean_and_variance_of_each_phase_are_those_of_the_model(level, quantize):
    cfa = CFA.bayer("BGGR")
    noisy = NoiseSynthesizer(PARAMS).mosaic(np.full((800, 800), level), 100, cfa=cfa, seed=4, quantize=quantize)
    for plane, gain, read_var in zip(pack(noisy, cfa).astype(np.float64), GAINS, READ_VARS, strict=True):
        n, var = plane.size, gain * level + read_var
        # Fourth central moment of K Poisson(x/K) + Gaussian: 3 var^2 + K^3 x; it sets the error of a sample variance.
        var_se = np.sqrt((2 * var**2 + gain**3 * level) / n)
        # Rounding leaves a mean error of exp(-2 pi^2 s^2) / pi, with s^2 >= 1.1 DN^2 here: below 1e-9 DN.
        assert abs(plane.mean() - level) < 5 * np.sqrt(var / n)
        assert abs(plane.var() - var) < 5 * var_se
        assert not quantize or np.array_equal(plane, np.rint(plane))


def test_without_read_noise_every_value_is_a_whole_number_of_electrons():
    noisy = NoiseSynthesizer(NoiseParams(0.37, 0.0)).mosaic(
        np.full((200, 200), 3.0), 100, cfa=CFA.mono(), seed=4, quantize=False
    )
    counts = np.rint(noisy / 0.37)
    np.testing.assert_allclose(noisy, counts * 0.37, rtol=1e-6)
    observed = np.bincount(counts.astype(int).ravel(), minlength=30)[:30]
    expected = counts.size * stats.poisson.pmf(np.arange(30), 3.0 / 0.37)
    keep = expected > 10
    assert stats.chi2.sf(((observed - expected)[keep] ** 2 / expected[keep]).sum(), keep.sum() - 1) > 1e-6


@pytest.mark.parametrize("read_var", [0.003, 0.05, 1 / 12, 0.3, 1.0, 5.0])
def test_a_dark_frame_as_stored_has_the_read_variance_of_the_profile(read_var):
    """Also below 1/12 DN^2, where rounding does not add its 1/12."""
    dark = NoiseSynthesizer(NoiseParams(1.0, read_var)).mosaic(np.zeros((1000, 1000)), 100, cfa=CFA.mono(), seed=2)
    fourth = float((dark.astype(np.float64) ** 4).mean())
    assert abs(dark.var(dtype=np.float64) - read_var) < 5 * np.sqrt((fourth - read_var**2) / dark.size)


def test_analog_variance_inverts_rounding():
    for var in (0.0, 1e-4, 0.02, 0.2, 0.9999, 1.0001, 7.0):
        assert rounded_variance(analog_variance(var)) == pytest.approx(var, rel=1e-6, abs=1e-12)


def test_rounded_variance_is_that_of_rounded_normals():
    rounded = np.rint(0.4 * np.random.default_rng(3).standard_normal(400_000))
    assert rounded.var() == pytest.approx(rounded_variance(0.16), abs=5 * np.sqrt((rounded**4).mean() / rounded.size))


def test_tiles_crops_and_workers_do_not_change_the_noise():
    clean = np.random.default_rng(1).uniform(0, 300, (201, 160)).astype(np.float32)
    synthesizer, cfa = NoiseSynthesizer(PARAMS), CFA.bayer("RGGB")
    whole = synthesizer.mosaic(clean, 100, cfa=cfa, seed=3, frame=8)
    assert np.array_equal(whole, synthesizer.mosaic(clean, 100, cfa=cfa, seed=3, frame=8, workers=4))
    crop = synthesizer.mosaic(clean[41:, 30:], 100, cfa=cfa.rolled(1, 0), seed=3, frame=8, origin=(41, 30))
    assert np.array_equal(whole[41:, 30:], crop)
    planes = synthesizer.planes(pack(clean[40:80, 30:90], cfa), 100, cfa=cfa, seed=3, frame=8, origin=(40, 30))
    assert np.array_equal(pack(whole[40:80, 30:90], cfa), planes)
    assert not np.array_equal(whole, synthesizer.mosaic(clean, 100, cfa=cfa, seed=3, frame=9))


def test_negative_signal_is_kept():
    noisy = NoiseSynthesizer(NoiseParams(1.0, 4.0)).mosaic(np.full((300, 300), -7.0), 1, cfa=CFA.mono(), seed=1)
    assert abs(noisy.mean(dtype=np.float64) + 7.0) < 5 * np.sqrt(4.0 / noisy.size)


def test_planes_are_clipped_only_when_asked():
    clean = np.full((4, 40, 40), 990.0, np.float32)
    make = NoiseSynthesizer(PARAMS).planes
    free = make(clean, 1, cfa=CFA.bayer("RGGB"), seed=1)
    assert free.max() > 1000
    clipped = make(clean, 1, cfa=CFA.bayer("RGGB"), seed=1, clip=(-64, 1000))
    assert np.array_equal(clipped, np.clip(free, -64, 1000))


def test_the_stored_image_is_what_the_converter_delivers():
    clean = clean_image(black=BlackLevel(np.array([[512.0, 513.5], [511.25, 512.0]])))
    noisy = NoiseSynthesizer(PARAMS).image(clean, seed=6)
    assert noisy.raster.dtype == np.uint16
    assert noisy.raster.shape == clean.raster.shape
    expected = pack(clean.signal(), clean.cfa).astype(np.float64)
    for plane, mean, gain, read_var in zip(noisy.planes(), expected, GAINS, READ_VARS, strict=True):
        assert abs(plane.mean(dtype=np.float64) - mean.mean()) < 5 * np.sqrt(
            (gain * mean.mean() + read_var) / plane.size
        )


def test_the_stored_image_carries_iso_and_its_own_noise_profile():
    class Model:
        def at(self, iso):
            return PARAMS.scaled(iso / 100)

    noisy = NoiseSynthesizer(Model()).image(clean_image(), iso=1600, seed=6)
    assert noisy.iso == 1600
    assert noisy.metadata.noise_profile is not None
    tag = NoiseParams.from_dng(noisy.metadata.noise_profile, 16383 - 512, noisy.phases)
    np.testing.assert_allclose(tag.system_gain, 16 * np.array([2.5, 1.75, 1.75, 0.6]))
    np.testing.assert_allclose(tag.read_var, 256 * np.array([9, 2.6, 2.6, 30]))


def test_black_and_white_clip():
    dark = NoiseSynthesizer(NoiseParams(1.0, 400.0)).image(clean_image(-502.0, black=BlackLevel.constant(10)), seed=1)
    assert dark.raster.min() == 0
    bright = replace(clean_image(), white_level=720.0)
    assert NoiseSynthesizer(PARAMS).image(bright, seed=1).raster.max() == 720


def test_noise_belongs_to_sensor_coordinates_not_to_the_file():
    whole = clean_image(shape=(40, 40))
    inner = replace(whole, raster=whole.raster[4:, 6:])
    synthesizer = NoiseSynthesizer(PARAMS)
    assert np.array_equal(
        synthesizer.image(whole, seed=2).raster[4:, 6:], synthesizer.image(inner, seed=2, origin=(4, 6)).raster
    )
    masked = replace(whole, active_area=(4, 6, 40, 40))
    noisy = synthesizer.image(masked, seed=2)
    assert np.array_equal(noisy.mosaic, synthesizer.image(whole, seed=2).raster[4:, 6:])
    assert (noisy.raster[:4] == 712).all()


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="mode"):
        NoiseSynthesizer(PARAMS, mode="gan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Tukey-lambda"):
        NoiseSynthesizer(PARAMS, mode="eld")
    with pytest.raises(TypeError, match="dark model"):
        NoiseSynthesizer(PARAMS, mode="measured")
    with pytest.raises(ValueError, match="dark source"):
        NoiseSynthesizer(PARAMS, mode="resample")
    with pytest.raises(TypeError, match="NoiseParams"):
        NoiseSynthesizer(3.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="finite"):
        NoiseSynthesizer(PARAMS).mosaic(np.full((2, 2), np.nan), 1, cfa=CFA.bayer("RGGB"), seed=1)
    with pytest.raises(MetadataError, match="16-bit"):
        NoiseSynthesizer(PARAMS).image(clean_image(white_level=1e6), seed=1)


def test_stored_is_the_rounded_and_clipped_mosaic():
    clean = np.random.default_rng(1).uniform(-20, 900, (100, 120)).astype(np.float32)
    synthesizer, cfa = NoiseSynthesizer(PARAMS), CFA.bayer("GRBG")
    signal = synthesizer.mosaic(clean, 100, cfa=cfa, seed=4)
    stored = synthesizer.stored(clean, 100, cfa=cfa, black=16.0, white_level=800.5, seed=4, workers=2)
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, np.clip(signal + 16, 0, 800))


def test_short_exposures_have_the_light_and_noise_of_their_ratio():
    clean = clean_image(2000.0, shape=(200, 200), cfa="RGGB", metadata=Metadata(iso=100.0, exposure_time=1.0))
    params = NoiseParams(0.5, 4.0)
    ratios = (1.0, 100.0, 250.0)
    for ratio, short in zip(ratios, NoiseSynthesizer(params).exposures(clean, ratios, seed=1), strict=True):
        signal = short.signal().astype(np.float64)
        var = 0.5 * 2000 / ratio + 4
        assert signal.mean() == pytest.approx(2000 / ratio, abs=5 * np.sqrt(var / signal.size))
        assert signal.var() == pytest.approx(var, rel=5 * np.sqrt(2.1 / signal.size))
        assert short.metadata.exposure_time == pytest.approx(1.0 / ratio)
    (bright,) = NoiseSynthesizer(params).exposures(clean, [100.0], brighten=True, seed=1, first_frame=1)
    signal = bright.signal().astype(np.float64)
    assert signal.mean() == pytest.approx(2000, abs=5 * 100 * np.sqrt(14 / signal.size))
    assert bright.metadata.noise_profile is not None
    tag = NoiseParams.from_dng(bright.metadata.noise_profile, 16383 - 512, bright.phases)
    assert np.mean(tag.variance(2000.0)) == pytest.approx(signal.var(), rel=5 * np.sqrt(2.1 / signal.size))


def test_light_stays_when_the_iso_changes():
    class Model:
        def at(self, iso):
            return NoiseParams(iso / 400, 9.0)

    clean = clean_image(40.0, shape=(200, 200), metadata=Metadata(iso=100.0))
    (short,) = NoiseSynthesizer(Model()).exposures(clean, [2.0], iso=800, seed=1)
    assert short.iso == 800
    # 80 electrons after halving, at 2 DN/e-
    assert short.signal().mean(dtype=np.float64) == pytest.approx(160, abs=5 * np.sqrt((2 * 160 + 9) / 40000))


def test_a_burst_has_independent_noise():
    frames = list(NoiseSynthesizer(PARAMS).burst(clean_image(shape=(64, 64)), 3, seed=4))
    assert np.array_equal(
        frames[1].raster, NoiseSynthesizer(PARAMS).image(clean_image(shape=(64, 64)), seed=4, frame=1).raster
    )
    signals = [f.signal().ravel() for f in frames]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        # Phases differ in variance, not in mean: any correlation is between the draws.
        assert abs(np.corrcoef(signals[a], signals[b])[0, 1]) < 5 / 64
