"""Real darks as a dark source: structure kept, pattern counted once, rounding taken back."""

import numpy as np
import pytest
from scipy import stats

from rawkit.errors import CalibrationError
from rawkit.noise.real_darks import RealDarks
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.params import NoiseParams

BAYER = CFA.bayer("RGGB")
SHAPE = (120, 160)
PIXEL, ROW, PATTERN = 1.5, 2.0, 3.0


def dark_frames(count=12, seed=1):
    """Gaussian pixels and rows, a fixed pattern, colors with different black errors; bare NumPy."""
    rng = np.random.default_rng(seed)
    pattern = PATTERN * rng.standard_normal(SHAPE)
    pattern[::2, ::2] += 5.0
    frames = []
    for _ in range(count):
        rows = ROW * rng.standard_normal((SHAPE[0], 1))
        stored = np.rint(256 + pattern + rows + PIXEL * rng.standard_normal(SHAPE)).astype(np.uint16)
        frames.append(RawImage(raster=stored, cfa=BAYER, black=BlackLevel.constant(256), white_level=4095))
    return frames, pattern


def drawn(source, frames, seed=3):
    return np.stack([source(None, SHAPE, seed, f, 0, 0) for f in range(frames)]).astype(np.float64)


def test_synthetic_darks_have_the_real_ones_structure():
    images, pattern = dark_frames()
    stack = drawn(RealDarks.from_images(images), 200)
    mean = stack.mean(axis=0)
    assert np.corrcoef(mean.ravel(), pattern.ravel())[0, 1] > 0.97
    # The shrunk and topped-up pattern has the real one's variance; the mean's temporal noise is not added.
    assert (mean - pattern).std() < 1.2
    assert mean[::2, 1::2].std() == pytest.approx(PATTERN, rel=0.05)
    temporal = stack - mean
    rows = temporal.mean(axis=2)
    # 12 frames x 120 rows are resampled: 1440 different row offsets.
    assert rows.std() == pytest.approx(np.hypot(ROW, PIXEL / np.sqrt(SHAPE[1])), rel=5 / np.sqrt(2 * 1440))
    pixels = temporal - rows[:, :, None]
    assert pixels.std() == pytest.approx(PIXEL, rel=5 / np.sqrt(2 * 12 * pixels[0].size) + 0.01)


def test_rounding_is_taken_back():
    """Analog values are spread over a code, not piled up on whole numbers, and rounding adds its 1/12 only once."""
    images, _ = dark_frames()
    source = RealDarks.from_images(images)
    analog = drawn(source, 20)
    fraction = (analog - source.fixed) % 1.0
    assert stats.kstest(fraction.ravel()[::97], "uniform").pvalue > 1e-6
    stored = NoiseSynthesizer(NoiseParams(1.0, 1.0), dark=source).stored(
        np.zeros(SHAPE, np.float32), None, cfa=BAYER, black=256.0, white_level=4095, seed=3
    )
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, np.rint(analog[0].astype(np.float32) + np.float32(256)))


def test_tiles_are_cut_from_the_whole():
    images, _ = dark_frames(4)
    source = RealDarks.from_images(images)
    whole = source(None, SHAPE, 1, 2, 0, 0)
    assert np.array_equal(whole[30:57, 41:99], source(None, (27, 58), 1, 2, 30, 41))
    assert not np.array_equal(whole, source(None, SHAPE, 1, 3, 0, 0))
    synthesizer = NoiseSynthesizer(NoiseParams(1.0, 1.0), dark=source)
    clean = np.full(SHAPE, 20.0, np.float32)
    options = {"cfa": BAYER, "black": 256.0, "white_level": 4095, "seed": 3}
    whole = synthesizer.stored(clean, None, **options)
    assert np.array_equal(whole, synthesizer.stored(clean, None, workers=3, **options))


def test_frames_that_cannot_be_used_are_refused():
    images, _ = dark_frames(3)
    with pytest.raises(CalibrationError, match="at least two"):
        RealDarks.from_images(images[:1])
    other = RawImage(raster=images[0].raster[:100], cfa=BAYER, black=BlackLevel.constant(256), white_level=4095)
    with pytest.raises(CalibrationError, match="one setting"):
        RealDarks.from_images([images[0], other])
    with pytest.raises(CalibrationError, match="120 x 160"):
        RealDarks.from_images(images)(None, (121, 10), 1, 0, 0, 0)


def test_any_callable_is_a_dark_source():
    def source(iso, shape, seed, frame, top, left):
        return np.full(shape, 7.0 + frame)

    synthesizer = NoiseSynthesizer(NoiseParams(1.0, 1.0), dark=source)
    assert synthesizer.mode_at(None) == "resample"
    noisy = synthesizer.mosaic(np.zeros((4, 6)), None, cfa=BAYER, seed=1, frame=2)
    assert np.array_equal(noisy, np.full((4, 6), 9.0))
    bad = NoiseSynthesizer(NoiseParams(1.0, 1.0), dark=lambda *_: np.zeros((2, 2)))
    with pytest.raises(ValueError, match="gave"):
        bad.mosaic(np.zeros((4, 6)), None, cfa=BAYER, seed=1)
